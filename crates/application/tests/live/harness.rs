//! A database with an application in it, a web server with one behind it, and questions.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{encoding::text::encode, registry::Registry};
use rowcast_application::{Application, ApplicationConfig, FunctionsConfig, WebhookConfig};
use rowcast_embedded::{Cluster, Options};
use rowcast_model::{
    AskError, Asking, Caller, Claims, Definition, Handler, Method, Question, Role,
};
use rowcast_source::ConnInfo;
use serde_json::{Map, Value, json, value::RawValue};

pub const SECRET: &str = "a secret of more than thirty-two bytes";

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let major = std::env::var("ROWCAST_TEST_PG").ok();
        Cluster::start(Options {
            major: major.and_then(|text| text.parse().ok()),
            ..Options::default()
        })
        .unwrap()
    })
}

/// The example application: rooms and their members, behind row level security.
const SETUP: &str = "
    DO $$ BEGIN
        CREATE ROLE app_user NOLOGIN; CREATE ROLE app_machine NOLOGIN; CREATE ROLE editor NOLOGIN;
    EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app_user, app_machine, editor;
    CREATE TABLE app.members (room text, user_id text, PRIMARY KEY (room, user_id));
    ALTER TABLE app.members ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON app.members USING (user_id = current_setting('rowcast.user_id'));
    GRANT SELECT, INSERT ON app.members TO app_user, editor;
    INSERT INTO app.members VALUES ('42', 'anna'), ('42', 'bert');
";

/// The application, and what it counted.
pub struct World {
    pub application: Application,
    registry: Registry,
    pub sql: tokio_postgres::Client,
}

impl World {
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Asks a function.
    pub async fn call(&self, name: &str, caller: Caller, input: Value) -> Result<Value, AskError> {
        let handler = Handler::Function(name.parse().unwrap());
        ask(&self.application, &question(handler, caller, input)).await
    }
}

/// A database of its own; `body` makes functions.
pub async fn world(body: &str, change: impl FnOnce(&mut FunctionsConfig)) -> World {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("application_{number}");
    let admin = ConnInfo::parse(&cluster().url("postgres"), None).unwrap();
    let admin = admin.connect("test").await.unwrap();
    let create = format!("CREATE DATABASE {name}");
    admin.batch_execute(&create).await.unwrap();
    let database = ConnInfo::parse(&cluster().url(&name), None).unwrap();
    let sql = database.connect("test").await.unwrap();
    sql.batch_execute(SETUP).await.unwrap();
    sql.batch_execute(body).await.unwrap();
    let mut functions = FunctionsConfig {
        database,
        role: Some("app_user".into()),
        api_key_role: Some("app_machine".into()),
        claim_roles: vec!["editor".into()],
        connections: 2,
        timeout: Duration::from_secs(5),
    };
    change(&mut functions);
    let mut registry = Registry::default();
    let config = config(functions, BTreeMap::new());
    let application = Application::new(config, &mut registry).unwrap();
    World {
        application,
        registry,
        sql,
    }
}

/// Only webhooks; there is no database.
pub fn webhooks(webhooks: BTreeMap<String, WebhookConfig>) -> Arc<Application> {
    let functions = FunctionsConfig {
        database: ConnInfo::parse("postgres://nobody@127.0.0.1:1/nothing", None).unwrap(),
        role: Some("app_user".into()),
        api_key_role: None,
        claim_roles: Vec::new(),
        connections: 1,
        timeout: Duration::from_secs(1),
    };
    let config = config(functions, webhooks);
    Arc::new(Application::new(config, &mut Registry::default()).unwrap())
}

fn config(
    functions: FunctionsConfig,
    webhooks: BTreeMap<String, WebhookConfig>,
) -> ApplicationConfig {
    ApplicationConfig {
        functions,
        webhooks,
        questions_bytes: 1 << 20,
        answer_bytes: 1024,
    }
}

pub fn webhook(url: &str) -> WebhookConfig {
    WebhookConfig {
        url: url.to_owned(),
        secret: SECRET.to_owned().into(),
        secret_previous: None,
        timeout: Duration::from_secs(5),
        connections: 2,
        failures: 3,
        pause: Duration::from_millis(300),
    }
}

pub fn person(user: &str) -> Caller {
    claiming(user, json!({"sub": user}))
}

pub fn claiming(user: &str, claims: Value) -> Caller {
    let claims = RawValue::from_string(claims.to_string()).unwrap();
    Caller {
        user_id: Some(user.into()),
        organization_id: Some("acme".into()),
        roles: [Role::from("member")].into(),
        auth_method: Method::Session,
        api_key_id: None,
        connection_id: 7,
        claims: Claims(claims.into()),
    }
}

pub fn machine() -> Caller {
    Caller {
        user_id: None,
        auth_method: Method::ApiKey,
        api_key_id: Some("key_1".into()),
        claims: Claims::none(),
        ..person("")
    }
}

pub fn question(handler: Handler, caller: Caller, input: Value) -> Question {
    let mut arguments = Map::new();
    arguments.insert("roomId".into(), "42".into());
    Question {
        asking: Asking::Event,
        handler,
        definition: Some(Definition {
            pattern: "room:{roomId}".into(),
            event: "act".into(),
        }),
        channel: "room:42".into(),
        arguments,
        input: RawValue::from_string(input.to_string()).unwrap(),
        caller,
    }
}

pub async fn ask(application: &Application, question: &Question) -> Result<Value, AskError> {
    let answer = application.ask(question).await?;
    Ok(serde_json::from_str(answer.get()).unwrap())
}

/// Code and words of a refusal.
pub fn refused(answer: Result<Value, AskError>) -> (String, String) {
    match answer {
        Err(AskError::Refused(refusal)) => (refusal.code, refusal.message),
        other => panic!("{other:?}"),
    }
}
