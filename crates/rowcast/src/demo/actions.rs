//! What the buttons do: one parameterized statement each, on the schema `demo` and nothing else.

use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::Client;

/// The example schema, its rows and its tracked tables.
pub const SCHEMA: &str = include_str!("../../assets/demo.sql");

/// Tasks that one organization may have, so that a forgotten page does not fill the disk.
const MOST_TASKS: i64 = 60;

/// What a button asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    organization: String,
    action: Action,
    /// The selected task; any one otherwise.
    task: Option<i64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Insert,
    Update,
    Label,
    Move,
    Delete,
}

/// One task of the organization: the given one, or any.
const PICK: &str = "
    WITH picked AS (
        SELECT task.id FROM demo.tasks AS task JOIN demo.projects AS project ON project.id = task.project_id
        WHERE project.organization_id = $1 AND ($2::bigint IS NULL OR task.id = $2)
        ORDER BY random() LIMIT 1
    )";

const INSERT: &str = "
    INSERT INTO demo.tasks (project_id, title)
    SELECT id, (ARRAY['Water the plants', 'Call the printer', 'Sharpen the pencils', 'Read the minutes',
                      'Find the ladder', 'Sort the mail', 'Fix the lamp', 'Plan the party'])
               [1 + floor(random() * 8)::int]
    FROM demo.projects
    WHERE organization_id = $1 AND $2::bigint > (
        SELECT count(*) FROM demo.tasks AS task JOIN demo.projects AS project ON project.id = task.project_id
        WHERE project.organization_id = $1)
    ORDER BY random() LIMIT 1";

const UPDATE: &str = "
    UPDATE demo.tasks SET updated_at = now(), status =
        CASE status WHEN 'open' THEN 'doing' WHEN 'doing' THEN 'done' ELSE 'open' END
    WHERE id IN (SELECT id FROM picked)";

/// Sets a label, or takes it off when it is there.
const LABEL: &str = "
    , chosen AS (
        SELECT id AS task_id, (ARRAY['urgent', 'idea', 'waiting'])[1 + floor(random() * 3)::int] AS label
        FROM picked
    ), gone AS (
        DELETE FROM demo.task_labels AS there USING chosen
        WHERE there.task_id = chosen.task_id AND there.label = chosen.label
        RETURNING there.task_id
    )
    INSERT INTO demo.task_labels (task_id, label)
    SELECT task_id, label FROM chosen WHERE NOT EXISTS (SELECT FROM gone)";

const MOVE: &str = "
    UPDATE demo.tasks SET updated_at = now(), project_id = (
        SELECT id FROM demo.projects WHERE organization_id <> $1 ORDER BY random() LIMIT 1)
    WHERE id IN (SELECT id FROM picked)";

const DELETE: &str = "DELETE FROM demo.tasks WHERE id IN (SELECT id FROM picked)";

/// Does it; the error is for the person at the page.
pub async fn act(client: &Client, act: &Act) -> Result<(), String> {
    let (statement, number) = match act.action {
        Action::Insert => (INSERT.to_owned(), Some(MOST_TASKS)),
        Action::Update => (format!("{PICK} {UPDATE}"), act.task),
        Action::Label => (format!("{PICK} {LABEL}"), act.task),
        Action::Move => (format!("{PICK} {MOVE}"), act.task),
        Action::Delete => (format!("{PICK} {DELETE}"), act.task),
    };
    let changed = client
        .execute(&statement, &[&act.organization, &number])
        .await
        .map_err(|error| crate::migrations::explain(&error))?;
    match (changed, act.action) {
        (0, Action::Insert) => Err(format!("{MOST_TASKS} tasks are enough; delete some.")),
        (0, Action::Update | Action::Move | Action::Delete) => {
            Err("There is no such task.".to_owned())
        }
        _ => Ok(()),
    }
}

/// What one organization has.
pub async fn rows(client: &Client, organization: &str) -> Result<Value, tokio_postgres::Error> {
    let row = client
        .query_one(
            "WITH project AS (SELECT * FROM demo.projects WHERE organization_id = $1),
                  task AS (SELECT * FROM demo.tasks WHERE project_id IN (SELECT id FROM project))
             SELECT jsonb_build_object(
                 'projects', (SELECT coalesce(jsonb_agg(project), '[]') FROM project),
                 'tasks', (SELECT coalesce(jsonb_agg(task), '[]') FROM task),
                 'labels', (SELECT coalesce(jsonb_agg(tagged), '[]') FROM demo.task_labels AS tagged
                            WHERE task_id IN (SELECT id FROM task)))",
            &[&organization],
        )
        .await?;
    Ok(row.get(0))
}

/// The member of an organization that the page acts as.
pub fn member(organization: &str) -> Option<&'static str> {
    match organization {
        "acme" => Some("alice"),
        "globex" => Some("greta"),
        _ => None,
    }
}
