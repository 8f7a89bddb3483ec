//! Who runs the database, and how the same thing is done there.

/// A kind of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// A server of one's own.
    #[default]
    Own,
    /// Amazon RDS or Aurora.
    Rds,
    /// Google Cloud SQL.
    CloudSql,
    /// Supabase.
    Supabase,
    /// Neon.
    Neon,
    /// Azure Database for PostgreSQL, flexible server.
    Azure,
}

impl Provider {
    /// Told by the roles that only this provider makes.
    pub fn detect<'a>(roles: impl IntoIterator<Item = &'a str>) -> Provider {
        roles
            .into_iter()
            .find_map(|role| match role {
                "rds_superuser" => Some(Provider::Rds),
                "cloudsqlsuperuser" => Some(Provider::CloudSql),
                "supabase_admin" => Some(Provider::Supabase),
                "neon_superuser" => Some(Provider::Neon),
                "azure_pg_admin" => Some(Provider::Azure),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// The roles that [`Provider::detect`] knows.
    pub const ROLES: [&'static str; 5] = [
        "rds_superuser",
        "cloudsqlsuperuser",
        "supabase_admin",
        "neon_superuser",
        "azure_pg_admin",
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Own => "PostgreSQL",
            Provider::Rds => "Amazon RDS or Aurora",
            Provider::CloudSql => "Google Cloud SQL",
            Provider::Supabase => "Supabase",
            Provider::Neon => "Neon",
            Provider::Azure => "Azure Database for PostgreSQL",
        }
    }

    /// How a parameter of the server is set; some need a restart.
    pub fn set(self, name: &str, value: &str, restart: bool) -> Vec<String> {
        let restarting = if restart { ", then restart it" } else { "" };
        match self {
            Provider::Own => vec![
                format!("ALTER SYSTEM SET {name} = '{value}';"),
                match restart {
                    true => "-- then restart the server".to_owned(),
                    false => "SELECT pg_reload_conf();".to_owned(),
                },
            ],
            Provider::Rds => vec![format!(
                "-- set {name} = {value} in the parameter group of the instance or cluster{restarting}"
            )],
            Provider::CloudSql => vec![format!(
                "-- gcloud sql instances patch INSTANCE --database-flags={name}={value} (give all flags you have)"
            )],
            Provider::Supabase => vec![format!(
                "-- supabase --experimental postgres-config update --config {name}={value}"
            )],
            Provider::Neon => vec![format!(
                "-- {name} is set by Neon; ask its support for {value}"
            )],
            Provider::Azure => vec![format!(
                "-- az postgres flexible-server parameter set --name {name} --value {value} …{restarting}"
            )],
        }
    }

    /// How logical decoding is switched on.
    pub fn switch_on_logical(self) -> Vec<String> {
        match self {
            Provider::Rds => vec![
                "-- set rds.logical_replication = 1 in the parameter group, then reboot".to_owned(),
            ],
            Provider::CloudSql => self.set("cloudsql.logical_decoding", "on", true),
            Provider::Neon => vec![
                "-- Neon console: Settings, Logical Replication, Enable (it cannot be switched off again)"
                    .to_owned(),
            ],
            other => other.set("wal_level", "logical", true),
        }
    }

    /// How a role is allowed to replicate.
    pub fn allow_replication(self, role: &str) -> Vec<String> {
        match self {
            Provider::Rds => vec![format!("GRANT rds_replication TO {role};")],
            Provider::Neon => vec![
                "-- make the role in the Neon console or by its API: those may replicate, roles made with SQL may not"
                    .to_owned(),
            ],
            _ => vec![format!("ALTER ROLE {role} WITH REPLICATION;")],
        }
    }

    /// What one has to know there.
    pub fn notes(self) -> &'static [&'static str] {
        match self {
            Provider::Own => &[],
            Provider::Rds => &[
                "Replication needs the instance itself: not RDS Proxy, and on Aurora the writer endpoint.",
                "A major upgrade needs all logical slots dropped first; Rowcast then starts a new epoch.",
            ],
            Provider::CloudSql => &[
                "max_replication_slots and max_wal_senders are flags of the instance.",
                "A major upgrade needs all logical slots dropped first; Rowcast then starts a new epoch.",
            ],
            Provider::Supabase => &[
                "Use the direct connection (db.<project>.supabase.co:5432): the poolers do not replicate. It is IPv6 unless the IPv4 add-on is on.",
                "max_slot_wal_keep_size is small by default: a stopped Rowcast loses its slot soon.",
            ],
            Provider::Neon => &[
                "Use the host without `-pooler`: the pooler does not replicate.",
                "A slot that nobody reads for about 40 hours is removed; an open slot keeps the compute awake.",
            ],
            Provider::Azure => &[
                "The server parameter wal_level must be LOGICAL; it takes effect with a restart.",
                "Before PostgreSQL 17 a failover loses logical slots unless the PG Failover Slots extension is on.",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_is_told_by_a_role_and_says_how() {
        for role in Provider::ROLES {
            let provider = Provider::detect([role]);
            assert_ne!(provider, Provider::Own, "{role}");
            assert!(!provider.notes().is_empty());
            assert!(!provider.switch_on_logical().is_empty());
            assert!(!provider.allow_replication("app").is_empty());
        }
        assert_eq!(Provider::detect(["postgres"]), Provider::Own);
        assert_eq!(
            Provider::Own.switch_on_logical()[0],
            "ALTER SYSTEM SET wal_level = 'logical';"
        );
    }
}
