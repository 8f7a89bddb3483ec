//! The example application whose rows the tests write, and how it is tracked.

/// Tables of an application with organizations: owned by column, found over a path, joined.
pub const TABLES: &str = "
CREATE TABLE organizations (id text PRIMARY KEY, name text);
CREATE TABLE profiles (id text PRIMARY KEY, name text);
INSERT INTO organizations SELECT 'org_' || n, 'Organization ' || n FROM generate_series(1, 9) n;
INSERT INTO organizations VALUES ('org_123', 'The one of the documents');
CREATE TABLE fences (id bigint PRIMARY KEY, organization_id text);
CREATE TABLE materials (
    id text PRIMARY KEY,
    organization_id text NOT NULL,
    title text,
    status text,
    body text
);
CREATE TABLE projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id text REFERENCES organizations ON DELETE CASCADE,
    name text
);
CREATE TABLE tasks (
    id bigint PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    title text,
    done boolean NOT NULL DEFAULT false
);
CREATE TABLE labels (id int PRIMARY KEY, organization_id text NOT NULL, name text);
CREATE TABLE task_labels (
    task_id bigint REFERENCES tasks ON DELETE CASCADE,
    label_id int REFERENCES labels ON DELETE CASCADE,
    PRIMARY KEY (task_id, label_id)
);
CREATE TABLE notifications (
    id int PRIMARY KEY,
    organization_id text NOT NULL,
    user_id text,
    title text
);
CREATE TABLE orders (id int PRIMARY KEY, organization_id text NOT NULL, total numeric(10,2));
";

/// Tracks every table of [`TABLES`] that has an organization.
pub const TRACK: &str = "
SELECT rowcast.track('fences', organization_column => 'organization_id');
SELECT rowcast.track('materials', organization_column => 'organization_id');
SELECT rowcast.track('projects', organization_column => 'organization_id');
SELECT rowcast.track('tasks', organization_path => 'project_id -> projects.organization_id');
SELECT rowcast.track('labels', organization_column => 'organization_id');
SELECT rowcast.track('task_labels',
    organization_path => 'task_id -> tasks.project_id -> projects.organization_id');
SELECT rowcast.track('notifications', organization_column => 'organization_id', user_column => 'user_id');
SELECT rowcast.track('orders', organization_column => 'organization_id');
";

/// A project of `org_1` and one of `org_2` with known ids.
pub const PROJECT_1: &str = "11111111-1111-4111-8111-111111111111";
pub const PROJECT_2: &str = "22222222-2222-4222-8222-222222222222";
