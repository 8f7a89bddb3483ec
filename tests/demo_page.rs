//! The example page of `make demo`: two organizations side by side, each with a socket of its own.

use serde_json::{Value, json};

use crate::harness::{
    browser::{self, Browser},
    client::Client,
    postgres::{Database, Sql},
    server::{Server, get},
    world::migrate,
};

const PAGE: &[(&str, &str)] = &[("ROWCAST_DEMO_PAGE", "true")];

async fn demo() -> (Database, Sql, Server) {
    let database = Database::fresh().await;
    migrate(&database).await;
    let server = Server::start(&database, PAGE).await;
    let sql = database.connect().await;
    (database, sql, server)
}

const INSERT_BY_HAND: &str = "INSERT INTO demo.tasks (project_id, title)
    SELECT id, 'by hand' FROM demo.projects WHERE organization_id = 'acme' LIMIT 1";

/// What the page asks for is there: its files, tokens that open a socket, rows, and events of rows that
/// are changed by hand.
#[tokio::test]
async fn demo_page_files_tokens_and_rows() {
    let (_database, sql, server) = demo().await;
    for file in ["/", "/demo/demo.css", "/demo/demo.js"] {
        assert_eq!(get(server.public, file).await.unwrap().0, 200, "{file}");
    }
    let (status, body) = get(server.public, "/demo/token?organization=acme")
        .await
        .unwrap();
    assert_eq!(status, 200, "{body}");
    let found: Value = serde_json::from_str(&body).unwrap();
    let mut client = Client::login(server.public, found["token"].as_str().unwrap(), "acme").await;
    sql.exec(INSERT_BY_HAND).await;
    let event = client.event("tasks").await;
    assert_eq!(event.json["new"]["title"], "by hand", "{}", event.text);
    let (_, rows) = get(server.public, "/demo/rows?organization=acme")
        .await
        .unwrap();
    assert!(rows.contains("by hand"), "{rows}");
    let (_, rows) = get(server.public, "/demo/rows?organization=globex")
        .await
        .unwrap();
    assert!(!rows.contains("by hand"), "{rows}");
}

/// The page is not there unless asked for.
#[tokio::test]
async fn demo_page_is_off_by_default() {
    let database = Database::fresh().await;
    migrate(&database).await;
    let server = Server::start(&database, &[]).await;
    for path in [
        "/",
        "/demo/token?organization=acme",
        "/demo/rows?organization=acme",
    ] {
        assert_eq!(get(server.public, path).await.unwrap().0, 404, "{path}");
    }
}

/// In a real browser: both panels come alive, buttons and psql change rows, each side hears of its own,
/// and a moved task goes from one list to the other.
#[tokio::test]
async fn demo_page_in_a_browser() {
    let Some(program) = browser::installed() else {
        eprintln!("there is no Chromium here: `apt-get install chromium` makes this test run");
        return;
    };
    let (_database, sql, server) = demo().await;
    let url = format!("http://{}/?quiet", server.public);
    let mut page = Browser::open(&program, &url).await;
    page.until(
        "both panels are live",
        "document.querySelectorAll('.panel .state.live').length === 2",
    )
    .await;
    // What a side has heard: operation and table of each event, latest first.
    let heard = |side: usize| {
        format!(
            "[...document.querySelectorAll('.panel')[{side}].querySelectorAll('.log summary')]
                .map(line => line.querySelector('.op').textContent + ' ' + line.querySelector('.what').textContent.split(' ')[0])"
        )
    };
    let tasks = |side: usize| {
        format!(
            "[...document.querySelectorAll('.panel')[{side}].querySelectorAll('.tasks .name')].map(name => name.textContent)"
        )
    };
    let press = |side: usize, what: &str| {
        format!(
            "document.querySelectorAll('.panel')[{side}].querySelector('[data-do={what}]').click()"
        )
    };
    assert_eq!(page.eval(&heard(0)).await, json!([]));
    page.eval(&press(0, "insert")).await;
    page.until(
        "acme hears of it",
        &format!("{}[0] === 'INSERT tasks'", heard(0)),
    )
    .await;
    sql.exec(INSERT_BY_HAND).await;
    page.until(
        "acme hears of psql",
        &format!("{}[0] === 'by hand'", tasks(0)),
    )
    .await;
    // Globex has heard of its own only.
    page.eval(&press(1, "insert")).await;
    page.until(
        "globex hears of its own",
        &format!("{}.length > 0", heard(1)),
    )
    .await;
    assert_eq!(page.eval(&heard(1)).await, json!(["INSERT tasks"]));
    assert_eq!(
        page.eval(&heard(0)).await,
        json!(["INSERT tasks", "INSERT tasks"])
    );
    // A move: gone here, come there.
    page.eval("document.querySelectorAll('.panel')[0].querySelector('.tasks button').click()")
        .await;
    page.eval(&press(0, "move")).await;
    // (Labels move with their task, so news of that table may follow.)
    page.until(
        "acme sees it go",
        &format!("{}.includes('DELETE tasks')", heard(0)),
    )
    .await;
    page.until(
        "globex sees it come",
        &format!(
            "{}.filter(line => line === 'INSERT tasks').length === 2 && {}.includes('by hand')",
            heard(1),
            tasks(1)
        ),
    )
    .await;
    assert_eq!(
        page.eval(&format!("{}.includes('by hand')", tasks(0)))
            .await,
        false
    );
    // The lists are what the tables hold.
    for (side, organization) in ["acme", "globex"].iter().enumerate() {
        let sql_text = format!(
            "SELECT coalesce(json_agg(t.title ORDER BY t.id DESC), '[]') FROM demo.tasks t
             JOIN demo.projects p ON p.id = t.project_id WHERE p.organization_id = '{organization}'"
        );
        let expected: Value = serde_json::from_str(&sql.text(&sql_text).await).unwrap();
        page.until(
            "the list is current",
            &format!(
                "JSON.stringify({}) === JSON.stringify({expected})",
                tasks(side)
            ),
        )
        .await;
    }
}
