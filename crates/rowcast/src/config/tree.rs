//! The declared tree: every key with its meaning, type, default and the environment names people know.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::setting::{ByteSize, Often, Secret, Setting, Span, words};

words! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// What happens when the slot keeps more log than it may.
    AtLimit {
        /// It is said.
        Warn = "warn",
        /// The slot is dropped and made anew.
        Drop = "drop",
    }
}

/// What is declared of one key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The section.
    pub section: &'static str,
    /// There are several such sections, each with a name of its own behind a point.
    pub named: bool,
    /// The name in the section.
    pub name: &'static str,
    /// What it means, line by line.
    pub doc: &'static [&'static str],
    /// The environment names beside `ROWCAST__SECTION__NAME`, strongest first.
    pub env: &'static [&'static str],
    /// What a value looks like.
    pub kind: &'static str,
    /// Never shown, and readable from files.
    pub secret: bool,
    /// The default, as shown.
    pub default: Value,
}

impl Entry {
    /// `section.name`, or `section.<name>.name`.
    pub fn key(&self) -> String {
        let Entry { section, name, .. } = self;
        match self.named {
            true => format!("{section}.<name>.{name}"),
            false => format!("{section}.{name}"),
        }
    }

    /// Whether it declares this key.
    pub fn is(&self, key: &str) -> bool {
        match (self.named, of_named(key)) {
            (true, Some((section, _, name))) => section == self.section && name == self.name,
            (true, None) => false,
            (false, _) => key == self.key(),
        }
    }
}

/// Section, name of the section, and name of the key, of a key in a section with a name of its own.
pub(super) fn of_named(key: &str) -> Option<(&str, &str, &str)> {
    let mut parts = key.split('.');
    let (section, own, name) = (parts.next()?, parts.next()?, parts.next()?);
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let named = !own.is_empty() && own.len() <= 63 && own.chars().all(good);
    (named && parts.next().is_none()).then_some((section, own, name))
}

/// Declares the sections; makes the structs, the entries, and reading and showing by key.
macro_rules! tree {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $type:ident {
            $(
                $(#[doc = $doc:literal])*
                $name:ident: $kind:ty = $default:expr $(, env $($env:literal)+)?;
            )*
        }
    )*
    @named
    $(
        $(#[doc = $nsection_doc:literal])*
        $nsection:ident: $ntype:ident {
            $(
                $(#[doc = $ndoc:literal])*
                $nname:ident: $nkind:ty = $ndefault:expr;
            )*
        }
    )*) => {
        /// The whole configuration.
        #[derive(Clone, Debug, Default)]
        pub struct Config {
            $( $(#[doc = $section_doc])* pub $section: $type, )*
            $( $(#[doc = $nsection_doc])* pub $nsection: BTreeMap<String, $ntype>, )*
        }

        $(
            $(#[doc = $nsection_doc])*
            #[derive(Clone, Debug)]
            pub struct $ntype {
                $( $(#[doc = $ndoc])* pub $nname: $nkind, )*
            }

            impl Default for $ntype {
                fn default() -> Self {
                    $ntype { $( $nname: $ndefault, )* }
                }
            }
        )*

        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug)]
            pub struct $type {
                $( $(#[doc = $doc])* pub $name: $kind, )*
            }

            impl Default for $type {
                fn default() -> Self {
                    $type { $( $name: $default, )* }
                }
            }
        )*

        impl Config {
            /// All keys, in the order of the reference.
            pub fn entries() -> Vec<Entry> {
                let defaults = Config::default();
                vec![$($(
                    Entry {
                        section: stringify!($section),
                        named: false,
                        name: stringify!($name),
                        doc: &[$($doc),*],
                        env: &[$($($env),+)?],
                        kind: <$kind as Setting>::KIND,
                        secret: <$kind as Setting>::SECRET,
                        default: defaults.$section.$name.show(),
                    },
                )*)*
                $($(
                    Entry {
                        section: stringify!($nsection),
                        named: true,
                        name: stringify!($nname),
                        doc: &[$($ndoc),*],
                        env: &[],
                        kind: <$nkind as Setting>::KIND,
                        secret: <$nkind as Setting>::SECRET,
                        default: $ntype::default().$nname.show(),
                    },
                )*)*]
            }

            /// What the sections are for.
            pub fn sections() -> Vec<(&'static str, &'static [&'static str])> {
                vec![
                    $( (stringify!($section), &[$($section_doc),*]), )*
                    $( (stringify!($nsection), &[$($nsection_doc),*]), )*
                ]
            }

            /// Sets one key; the error says what a value must be.
            pub fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
                $($(
                    if key == concat!(stringify!($section), ".", stringify!($name)) {
                        self.$section.$name = <$kind as Setting>::read(value)?;
                        return Ok(());
                    }
                )*)*
                if let Some((section, own, name)) = of_named(key) {
                    $($(
                        if section == stringify!($nsection) && name == stringify!($nname) {
                            let value = <$nkind as Setting>::read(value)?;
                            self.$nsection.entry(own.to_owned()).or_default().$nname = value;
                            return Ok(());
                        }
                    )*)*
                }
                Err("is not a key".to_owned())
            }

            /// The value of one key, secrets hidden.
            pub fn show(&self, key: &str) -> Value {
                $($(
                    if key == concat!(stringify!($section), ".", stringify!($name)) {
                        return self.$section.$name.show();
                    }
                )*)*
                if let Some((section, own, name)) = of_named(key) {
                    $($(
                        if section == stringify!($nsection) && name == stringify!($nname) {
                            let there = self.$nsection.get(own);
                            return there.map_or(Value::Null, |there| there.$nname.show());
                        }
                    )*)*
                }
                Value::Null
            }

            /// Every key that has a value, sections with names of their own included.
            pub fn keys(&self) -> Vec<(String, Entry)> {
                let mut keys = Vec::new();
                for entry in Config::entries() {
                    if !entry.named {
                        keys.push((entry.key(), entry));
                    }
                }
                $(
                    for own in self.$nsection.keys() {
                        let named = Config::entries().into_iter();
                        for entry in named.filter(|entry| entry.section == stringify!($nsection)) {
                            keys.push((format!("{}.{own}.{}", entry.section, entry.name), entry));
                        }
                    }
                )*
                keys
            }
        }
    };
}

tree! {
    /// The database whose changes are told.
    database: Database {
        /// Address of the database: `postgres://user:password@host:port/name?sslmode=…`.
        /// For a unix socket, write its directory as the host, with `%2F` for `/`.
        url: Option<Secret> = None, env "DATABASE_URL";
        /// Address for the replication connection, when `url` goes through a pooler: replication needs
        /// the server itself. Left out: `url`.
        replication_url: Option<Secret> = None, env "REPLICATION_URL" "DATABASE_DIRECT_URL";
        /// File of certificates (PEM) to trust beside the usual ones.
        tls_ca_file: Option<PathBuf> = None, env "PGSSLROOTCERT";
        /// Apply missing migrations when the service starts. Needs the rights of the owner.
        migrate: bool = false, env "ROWCAST_MIGRATE";
    }
    /// Reading the write-ahead log.
    replication: Replication {
        /// The replication slot: lower case letters, digits and `_`. Two services never share one.
        slot: String = "rowcast".to_owned(), env "ROWCAST_SLOT";
        /// The publication.
        publication: String = "rowcast".to_owned(), env "ROWCAST_PUBLICATION";
        /// Keep the publication in step with the tracked tables. Off: it is only checked.
        manage_publication: bool = true;
        /// Hold every transaction back until new snapshots on the primary see it, so that whoever
        /// reads on receipt finds the row. Off: a little faster, and a reader may come too early.
        visibility_barrier: bool = true;
        /// How often the server is told how far we are. Must be well below `wal_sender_timeout`.
        status_interval: Span = Span::ms(1_000);
        /// Connect again when the server has said nothing for so long. Three times in this span an idle
        /// server is asked for a sign of life: a small entry in its log.
        silence_limit: Span = Span::ms(6_000);
        /// Most memory for row images of one transaction that wait for their table events. What goes
        /// beyond becomes table-level invalidations.
        transaction_bytes: ByteSize = ByteSize::mib(64);
        /// Size of the parts in which a transaction is handed on.
        batch_bytes: ByteSize = ByteSize::kib(256);
        /// Most memory between the reader and the sockets. When it is full, the reader waits.
        queue_bytes: ByteSize = ByteSize::mib(32);
        /// Most log that the slot may keep on the disk of the server. Left out: what the server allows
        /// (`max_slot_wal_keep_size`).
        wal_limit: Option<ByteSize> = None, env "ROWCAST_WAL_LIMIT";
        /// Beyond `wal_limit`: say so in log and metrics, or drop the slot. Then it is made anew, and every
        /// client is told to fetch anew.
        at_limit: AtLimit = AtLimit::Warn, env "ROWCAST_AT_LIMIT";
        /// How often old table events are removed and partitions made (`rowcast.maintain()`).
        maintenance_interval: Span = Span::ms(60_000);
    }
    /// The past, for clients that come back with a cursor.
    history: History {
        /// Clients that were away for so long get what they missed; beyond, they fetch anew. After a
        /// restart it is read from the log again, which the server has to keep for so long.
        retention: Span = Span::ms(600_000), env "ROWCAST_HISTORY_RETENTION";
        /// Most memory for the past of all organizations.
        bytes: ByteSize = ByteSize::mib(256);
        /// Most memory for the past of one organization.
        organization_bytes: ByteSize = ByteSize::mib(32);
        /// Most log that the server keeps for the past. At most half of `replication.wal_limit` and of
        /// `max_slot_wal_keep_size` is used.
        wal_bytes: ByteSize = ByteSize::mib(256);
        /// Clients that were away for longer than the past reaches, but not longer than this, are told which
        /// records changed, from `realtime_table_events`; at most 18 h are kept there. `0 s`: they fetch
        /// anew. Needs `replication.visibility_barrier`.
        invalidations: Span = Span::ms(12 * 3_600_000), env "ROWCAST_HISTORY_INVALIDATIONS";
        /// Most memory for such answers; each organization may have a sixteenth.
        invalidations_bytes: ByteSize = ByteSize::mib(64);
        /// How often a place in the log is noted for that. Clients are told what changed since the last
        /// one before their cursor.
        invalidations_interval: Span = Span::ms(15_000);
    }
    /// Where clients connect.
    server: Server {
        /// Address to listen on. Left out: all addresses; this machine only for insecure development.
        host: Option<String> = None, env "ROWCAST_HOST";
        /// Port for clients; 0 takes a free one.
        port: u16 = 4000, env "PORT";
        /// Address for metrics and readiness. Do not open it to the world.
        internal_host: String = "127.0.0.1".to_owned(), env "ROWCAST_INTERNAL_HOST";
        /// Port for metrics and readiness; 0 takes a free one.
        internal_port: u16 = 4001, env "ROWCAST_INTERNAL_PORT" "INTERNAL_PORT";
        /// Origins of web pages that may connect, such as `https://app.example.com`. Empty: all.
        allowed_origins: Vec<String> = Vec::new(), env "ALLOWED_ORIGINS";
        /// Most time for open sockets to leave when the service stops.
        shutdown_timeout: Span = Span::ms(10_000);
        /// When the service stops, each socket is told to come back after a time of its own, up to this.
        goodbye_spread: Span = Span::ms(10_000);
    }
    /// Who may connect.
    auth: Auth {
        /// Key for tokens signed with HS256, HS384 or HS512; at least 32 bytes.
        jwt_secret: Option<Secret> = None, env "JWT_SECRET";
        /// The key before: tokens signed with it are still taken while you rotate.
        jwt_secret_previous: Option<Secret> = None, env "JWT_SECRET_PREVIOUS";
        /// Public key (PEM) for tokens signed with RS, PS, ES or EdDSA.
        jwt_public_key: Option<Secret> = None, env "JWT_PUBLIC_KEY";
        /// Address of a JSON Web Key Set.
        jwks_url: Option<String> = None, env "JWKS_URL";
        /// The `iss` that tokens must have.
        jwt_issuer: Option<String> = None, env "JWT_ISSUER";
        /// The `aud` values of which tokens must have one.
        jwt_audience: Vec<String> = Vec::new(), env "JWT_AUDIENCE";
        /// Take organizations and roles from the claims `organizations` (a list) and `org_roles` (roles by
        /// organization) of tokens too, beside the memberships in the database.
        trust_claims: bool = false, env "ROWCAST_TRUST_CLAIMS";
        /// Difference of clocks that is forgiven when a token's times are checked.
        leeway: Span = Span::ms(30_000);
        /// Token of your own servers, for `POST /broadcast`; at least 16 bytes. Left out: that is switched off.
        access_token: Option<Secret> = None, env "ACCESS_TOKEN";
        /// Start without a key of your own: tokens are signed with a key that everybody knows.
        /// For development on one machine.
        insecure_development: bool = false, env "ROWCAST_INSECURE_DEVELOPMENT";
    }
    /// What clients may use.
    limits: Limits {
        /// Most open sockets of one organization, when its plan (`rowcast.limits_for`) says nothing or cannot be
        /// asked. A plan may name the limits below that are of a socket, a user or an organization, too.
        connections_per_organization: u32 = 5_000, env "ROWCAST_WS_MAX_CONNECTIONS_PER_APP";
        /// Most open sockets of the service; fewer when it may not open so many files.
        connections: u32 = 100_000;
        /// Most sockets that have not said who they are.
        unauthenticated: u32 = 1_000;
        /// Connections a second that one address may open in the long run; 0: no limit.
        connects_per_second: u32 = 500;
        /// Connections that one address may open at once.
        connects_burst: u32 = 10_000;
        /// Addresses and networks of proxies, such as `10.0.0.0/8`: their connections are not counted by
        /// address, as everybody comes from there.
        proxies: Vec<String> = vec!["127.0.0.0/8".to_owned(), "::1".to_owned()];
        /// Time to say who one is.
        auth_timeout: Span = Span::ms(10_000);
        /// Largest message from a client.
        message_bytes: ByteSize = ByteSize::kib(64);
        /// Most memory for messages of all clients that have not come whole; who would go beyond is closed
        /// and comes back.
        incoming_bytes: ByteSize = ByteSize::mib(64);
        /// Most memory for what one socket has not taken yet; beyond it is closed and comes back.
        outbox_bytes: ByteSize = ByteSize::mib(1);
        /// Most memory for what all sockets together have not taken yet.
        outboxes_bytes: ByteSize = ByteSize::mib(256);
        /// Most subscriptions of one socket.
        subscriptions: u32 = 100;
        /// Most memory for the table lists and filters of one socket.
        subscription_bytes: ByteSize = ByteSize::kib(256);
        /// Most memory for the table lists and filters of all sockets together.
        subscriptions_bytes: ByteSize = ByteSize::mib(64);
        /// How often a silent socket is asked whether it lives.
        ping_interval: Span = Span::ms(25_000);
        /// A socket that has said nothing for so long is closed.
        silence: Span = Span::ms(60_000);
        /// Messages a second that a client may send in the long run.
        messages_per_second: u32 = 50;
        /// Messages that a client may send at once.
        messages_burst: u32 = 200;
        /// How often a socket may subscribe.
        joins: Often = Often::per_second(20, 200);
        /// Bytes of messages that a client may send. One that is larger than a burst goes through, and others wait.
        bytes: Often = Often::per_second(1 << 20, 4 << 20);
        /// How often a user, or an API key, may open a socket.
        user_connects: Often = Often::OFF;
        /// How often a user may subscribe, with all sockets together.
        user_joins: Often = Often::OFF;
        /// Messages that a user may send, with all sockets together.
        user_messages: Often = Often::OFF;
        /// Bytes of messages that a user may send, with all sockets together.
        user_bytes: Often = Often::OFF;
        /// Subscriptions and broadcasts of a user in each fixed window: `100/60 s` lets the first hundred of each
        /// minute through.
        user_requests: Often = Often::OFF;
        /// How often an organization may open a socket.
        organization_connects: Often = Often::OFF;
        /// How often an organization may subscribe, with all sockets together.
        organization_joins: Often = Often::OFF;
        /// Messages that an organization may send, with all sockets together.
        organization_messages: Often = Often::OFF;
        /// Bytes of messages that an organization may send, with all sockets together.
        organization_bytes: Often = Often::OFF;
        /// Broadcasts a second that a client may send, on channels that let clients, in the long run.
        broadcasts_per_second: u32 = 20;
        /// Broadcasts that a client may send at once.
        broadcasts_burst: u32 = 60;
        /// Most client events of one socket that have no answer yet.
        client_events: u32 = 32;
        /// Most memory for client events of all sockets that have no answer yet.
        client_events_bytes: ByteSize = ByteSize::mib(32);
        /// Largest body of `POST /broadcast`.
        broadcast_bytes: ByteSize = ByteSize::mib(1);
        /// Most memory for bodies of `POST /broadcast` that are read or said at a time.
        broadcasts_bytes: ByteSize = ByteSize::mib(16);
        /// Most memory for answers that are kept for requests that come again with their `Idempotency-Key`.
        idempotency_bytes: ByteSize = ByteSize::mib(8);
        /// How long they are kept.
        idempotency_time: Span = Span::ms(3_600_000);
    }
    /// Who is there: members of channels.
    presence: Presence {
        /// The channels of organizations, `org:<id>`, have members: everybody sees who else is there.
        organizations: bool = false;
        /// The channels of users, `user:<id>`, have members: the user's own connections.
        users: bool = false;
        /// A member whose socket broke stays for so long: when he is back by then, nobody notices.
        grace: Span = Span::ms(5_000);
        /// A member who has given no sign of life for so long is not there any more.
        expiry: Span = Span::ms(300_000);
        /// Shortest time between two differences of one channel.
        tick: Span = Span::ms(50);
        /// The same of a channel that very many follow.
        longest_tick: Span = Span::ms(1_000);
        /// Users of a channel that are listed, those who came first; of all it is told how many they are. Fewer,
        /// where a list of so many could be larger than `limits.outbox_bytes`.
        listed: u32 = 100;
        /// Connections that may be present on one channel.
        members: u32 = 10_000;
        /// Connections of one user that may be present on one channel.
        connections_per_user: u32 = 8;
        /// Largest state of a member.
        state_bytes: ByteSize = ByteSize::kib(1);
        /// Most memory for the members of all channels.
        bytes: ByteSize = ByteSize::mib(32);
        /// What the differences of one channel may take a second, all who follow it together; beyond it they come
        /// less often.
        rate: ByteSize = ByteSize::mib(32);
    }
    /// Asking the application: its functions in the database, as the caller's role.
    application: Application {
        /// Address of the database for calls of functions, with a login of its own: one that may only become
        /// the roles below. Left out: `database.url`.
        database_url: Option<Secret> = None, env "APPLICATION_DATABASE_URL";
        /// The database role that functions are called as for people. The login needs it granted. Left out: no
        /// function is called for them.
        role: Option<String> = None, env "ROWCAST_APPLICATION_ROLE";
        /// The same for API keys.
        api_key_role: Option<String> = None;
        /// Values of the claim `role` of a token that are taken as the database role in its place.
        claim_roles: Vec<String> = Vec::new();
        /// Calls of functions at a time, each on a connection.
        connections: u32 = 4;
        /// Most time for a call, waiting included; the statement ends then, too.
        timeout: Span = Span::ms(5_000);
        /// Most memory for questions that wait or are under way, webhooks included.
        questions_bytes: ByteSize = ByteSize::mib(16);
        /// Largest answer of a function or webhook.
        answer_bytes: ByteSize = ByteSize::kib(64);
        /// Most memory for the claims of the tokens of all sockets, which the application is told.
        claims_bytes: ByteSize = ByteSize::mib(64);
    }
    /// What the service says of itself.
    log: Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,rowcast_source=debug`.
        level: String = "info".to_owned(), env "LOG_LEVEL";
        /// For people, or for machines.
        format: LogFormat = LogFormat::Text, env "LOG_FORMAT";
    }
    /// The example page.
    demo: Demo {
        /// Serve the example page with its buttons at `/`, to everybody who can reach the port. It
        /// makes the example tables in the database and changes their rows.
        page: bool = false, env "ROWCAST_DEMO_PAGE";
        /// A line that the page shows: how to change rows by hand.
        hint: Option<String> = None, env "ROWCAST_DEMO_HINT";
    }
    @named
    /// Webhooks of the application, `[webhooks.<name>]` each. The database calls them by these names; addresses stand
    /// here alone.
    webhooks: Webhook {
        /// Address that questions are posted to. Redirects are not followed.
        url: Option<Secret> = None;
        /// Key that requests are signed with (`Rowcast-Signature`); at least 32 bytes.
        secret: Option<Secret> = None;
        /// The key before, to sign with as well while you rotate.
        secret_previous: Option<Secret> = None;
        /// Most time for a question, waiting included.
        timeout: Span = Span::ms(5_000);
        /// Requests at a time.
        connections: u32 = 16;
        /// After so many failures in a row nobody is asked for a while.
        failures: u32 = 5;
        /// For so long; then one question is tried.
        pause: Span = Span::ms(10_000);
    }
}
