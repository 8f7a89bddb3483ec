//! Handlers that change tables and tell nobody: when it is time to look for that, and the words for the operator.
//!
//! Owns the decision, without IO or a clock, and the statement that looks. Promises: a handler is looked at a few
//! times a minute at most and warned of once, then once in a while; what is remembered is bounded.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rowcast_model::{Definition, FunctionName};

/// Between two looks at a handler that turned out well: it may do something else the next time.
pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
/// Between two warnings of a handler.
pub(crate) const BETWEEN_WARNINGS: Duration = Duration::from_secs(600);
/// Handlers that are remembered for that; of others nothing is found out while so many are.
const MOST: usize = 256;
/// Tables that a warning names.
pub(crate) const NAMED: usize = 8;

/// Where a transaction stands: it has written something, and none of the verbs was called in it. Costs nothing,
/// so that it goes with every call. The verbs leave the mark; it ends with the transaction.
pub(crate) const SILENT: &str = "pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL \
    AND coalesce(pg_catalog.current_setting('rowcast.told', true), '') = ''";

/// The tables whose rows this transaction changed without a trigger that tells of it.
///
/// Asks only what every role may read, as it runs as the caller's. What was written is locked until the end, and
/// the lock of what a subtransaction took back is gone; the counts alone, which are those of the session, may be
/// older than the transaction. Without `track_counts` nothing is found. A partition is named by its root.
pub(crate) const UNTOLD: &str = "
    WITH RECURSIVE written AS MATERIALIZED (
        SELECT c.oid FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_class c ON c.oid = l.relation
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
          AND c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('rowcast', 'pg_catalog', 'information_schema')
          AND pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
            + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid) > 0
    ), above (leaf, oid) AS (
        SELECT w.oid, w.oid FROM written w
        UNION SELECT a.leaf, i.inhparent FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid
    )
    SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname)
    FROM written w
    JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.pg_partition_root(w.oid)::oid, w.oid)
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (
        SELECT FROM above a
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = a.oid AND t.tgenabled <> 'D'
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
        WHERE a.leaf = w.oid AND (f.nspname = 'rowcast' AND pg_catalog.starts_with(p.proname::text, 'on_')
            OR f.nspname = 'public' AND p.proname = 'notify_organization_of_table_change'))
    ORDER BY 1 LIMIT 9";

/// A handler: a function, and what for.
pub(crate) type Key = (Definition, FunctionName);

/// Until when handlers are let alone.
#[derive(Debug, Default)]
pub(crate) struct Looks(BTreeMap<Key, Instant>);

impl Looks {
    /// Whether to look at a handler now. If so, others of the same one do not for a while.
    pub fn take(&mut self, handler: &Key, now: Instant) -> bool {
        let rested = self.0.get(handler).is_none_or(|until| *until <= now);
        rested && self.rest(handler, now + BETWEEN_LOOKS, now)
    }

    /// Whether to warn of a handler that was looked at.
    pub fn warn(&mut self, handler: &Key, now: Instant) -> bool {
        let warned = self.0.get(handler);
        let warned = warned.is_some_and(|until| *until > now + BETWEEN_LOOKS);
        !warned && self.rest(handler, now + BETWEEN_WARNINGS, now)
    }

    /// Lets a handler alone; `false`: there is no room to remember that.
    fn rest(&mut self, handler: &Key, until: Instant, now: Instant) -> bool {
        if let Some(rests) = self.0.get_mut(handler) {
            *rests = until;
            return true;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, until| *until > now);
        }
        let room = self.0.len() < MOST;
        if room {
            self.0.insert(handler.clone(), until);
        }
        room
    }
}

/// What the operator is told: what was seen, what follows, and the statements that mend it.
pub(crate) fn warning((definition, function): &Key, tables: &[String]) -> String {
    let mut names = tables[..tables.len().min(NAMED)].join(", ");
    if tables.len() > NAMED {
        names.push_str(" and more");
    }
    let track: Vec<String> = tables
        .iter()
        .take(NAMED)
        .map(|table| format!("SELECT rowcast.track('{}');", table.replace('\'', "''")))
        .collect();
    format!(
        "function {function}, which handles {definition}, changed {names} and told nobody: that is not tracked, and the \
         function called none of invalidate, refresh, emit, send and broadcast, so subscribers keep what they have until \
         they read again by themselves. Mend it with {} or in the function with PERFORM rowcast.invalidate('<key>'); (or \
         another of them); when nobody has to know, with PERFORM rowcast.tell_nobody();",
        track.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(pattern: &str, event: &str, function: &str) -> Key {
        let definition = Definition {
            pattern: pattern.into(),
            event: event.into(),
        };
        (definition, function.parse().unwrap())
    }

    #[test]
    fn a_handler_is_warned_of_once_and_then_rarely() {
        let (mut looks, at) = (Looks::default(), Instant::now());
        let handler = key("room:*", "note", "app.note");
        assert!(looks.take(&handler, at));
        assert!(!looks.take(&handler, at), "somebody looks already");
        assert!(looks.warn(&handler, at));
        assert!(!looks.warn(&handler, at), "two looked at the same time");
        let just_before = at + BETWEEN_WARNINGS - Duration::from_millis(1);
        assert!(!looks.take(&handler, just_before));
        assert!(looks.take(&handler, at + BETWEEN_WARNINGS));
        assert!(looks.warn(&handler, at + BETWEEN_WARNINGS));
    }

    #[test]
    fn what_turned_out_well_is_looked_at_again_soon() {
        let (mut looks, at) = (Looks::default(), Instant::now());
        let handler = key("room:*", "note", "app.note");
        assert!(looks.take(&handler, at));
        assert!(!looks.take(&handler, at + BETWEEN_LOOKS / 2));
        let later = at + BETWEEN_LOOKS;
        assert!(looks.take(&handler, later) && looks.warn(&handler, later));
    }

    #[test]
    fn each_definition_counts_by_itself() {
        let (mut looks, at) = (Looks::default(), Instant::now());
        for handler in [
            key("room:*", "note", "app.note"),
            key("room:*", "note", "app.other"),
            key("room:*", "other", "app.note"),
            key("hall:*", "note", "app.note"),
        ] {
            assert!(looks.take(&handler, at) && looks.warn(&handler, at));
        }
    }

    #[test]
    fn so_many_are_remembered_and_those_beyond_are_let_alone() {
        let (mut looks, at) = (Looks::default(), Instant::now());
        let numbered = |n: usize| key(&format!("room:{n}"), "note", "app.note");
        for n in 0..MOST {
            assert!(looks.take(&numbered(n), at));
        }
        assert!(!looks.take(&numbered(MOST), at) && !looks.warn(&numbered(MOST), at));
        assert_eq!(looks.0.len(), MOST);
        // What has rested long enough makes room.
        assert!(looks.warn(&numbered(0), at));
        let later = at + BETWEEN_LOOKS;
        assert!(looks.take(&numbered(MOST), later));
        assert_eq!(looks.0.len(), 2, "the one that was warned of is remembered");
    }

    proptest! {
        /// Whenever calls come, and however long each look takes: never two warnings within the time, never too
        /// much in memory; and one who calls on and on is warned of.
        #[test]
        fn warnings_are_rare_and_come(calls in prop::collection::vec((0_usize..400, 0_u64..30, 0_u64..20), 1..600)) {
            let (mut looks, began) = (Looks::default(), Instant::now());
            let mut now = began;
            let mut warned: BTreeMap<usize, Instant> = BTreeMap::new();
            for (n, pause, slow) in calls {
                now += Duration::from_secs(pause);
                let handler = key(&format!("room:{n}"), "note", "app.note");
                let looked = looks.take(&handler, now);
                now += Duration::from_secs(slow);
                if looked && looks.warn(&handler, now) {
                    let before = warned.insert(n, now);
                    prop_assert!(before.is_none_or(|at| now - at >= BETWEEN_WARNINGS));
                }
                prop_assert!(looks.0.len() <= MOST);
                prop_assert!(!looked || warned.contains_key(&n) || looks.0.len() == MOST);
            }
        }
    }

    #[test]
    fn a_warning_says_what_follows_and_what_mends_it() {
        let handler = key("room:*", "note", "app.note");
        let words = warning(&handler, &["app.notes".into(), r#"app."o'clock""#.into()]);
        for part in [
            r#"function "app"."note", which handles the event note on room:*, changed app.notes, app."o'clock" and told nobody"#,
            "keep what they have",
            "SELECT rowcast.track('app.notes');",
            r#"SELECT rowcast.track('app."o''clock"');"#,
            "rowcast.invalidate(",
            "rowcast.tell_nobody()",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
        let many: Vec<String> = (0..=NAMED).map(|n| format!("app.t{n}")).collect();
        let words = warning(&handler, &many);
        assert!(words.contains("app.t7 and more") && !words.contains("app.t8"));
        assert!(UNTOLD.ends_with(&format!("LIMIT {}", NAMED + 1)));
    }
}
