use std::sync::{Arc, LazyLock};

use super::*;
use proptest::prelude::*;
use rowcast_model::{Audience, Body, Operation, TableName, Timestamp};

fn at(lsn: u64) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        commit_lsn: Lsn(lsn),
        index: 0,
    }
}

static TABLE: LazyLock<Arc<TableName>> = LazyLock::new(|| {
    Arc::new(TableName {
        schema: "public".into(),
        name: "tasks".into(),
    })
});

fn event(topic: Topic, lsn: u64, id: usize) -> RoutedEvent {
    RoutedEvent {
        cursor: at(lsn),
        commit_time: Timestamp(0),
        topic,
        audience: Audience::default(),
        table: TABLE.clone(),
        op: Operation::Insert,
        record_id: Some("x".repeat(id).into()),
        old_record_id: None,
        body: Body::Invalidate,
        last: true,
    }
}

fn org(name: &str) -> Topic {
    Topic::Org(name.into())
}

const PLENTY: Limits = Limits {
    bytes: usize::MAX,
    topic_bytes: usize::MAX,
    retention: Duration::MAX,
    remembered: usize::MAX,
};

fn told(history: &History, organizations: &[&str], from: u64) -> Vec<u64> {
    let topics: Vec<Topic> = organizations.iter().map(|name| org(name)).collect();
    let of = Of {
        topics: &topics,
        all: true,
    };
    let after = history.after(of, at(from));
    after.map(|event| event.cursor.commit_lsn.0).collect()
}

fn floor(history: &History, organization: &str) -> u64 {
    let of = Of {
        topics: &[org(organization)],
        all: true,
    };
    history.floor(of).commit_lsn.0
}

#[test]
fn events_of_an_organization_and_of_all_come_in_order() {
    let mut history = History::new(PLENTY, at(1));
    for (topic, lsn) in [
        (org("a"), 2),
        (org("b"), 3),
        (Topic::AllOrgs, 4),
        (org("a"), 5),
    ] {
        history.push(&event(topic, lsn, 1), Duration::ZERO);
    }
    assert_eq!(told(&history, &["a"], 1), [2, 4, 5]);
    assert_eq!(told(&history, &["a"], 2), [4, 5]);
    assert_eq!(told(&history, &["a", "b"], 2), [3, 4, 5]);
    assert_eq!(told(&history, &["c"], 0), [4]);
    assert_eq!(floor(&history, "a"), 1);
    // What is told again is not kept twice.
    history.push(&event(org("a"), 2, 1), Duration::ZERO);
    assert_eq!(told(&history, &["a"], 1), [2, 4, 5]);
}

#[test]
fn time_forgets_and_the_floor_follows() {
    let limits = Limits {
        retention: Duration::from_secs(10),
        ..PLENTY
    };
    let mut history = History::new(limits, at(1));
    for (name, lsn) in [("a", 2), ("b", 3), ("a", 4)] {
        history.push(&event(org(name), lsn, 1), Duration::from_secs(lsn));
    }
    history.expire(Duration::from_secs(13));
    assert_eq!(
        (told(&history, &["a"], 0), floor(&history, "a")),
        (vec![4], 2)
    );
    assert_eq!(
        (told(&history, &["b"], 0), floor(&history, "b")),
        (vec![], 3)
    );
    assert_eq!(floor(&history, "c"), 1);
    history.expire(Duration::from_secs(20));
    assert_eq!((history.bytes(), history.evicted()), (0, 3));
    history.begin(at(9));
    assert_eq!(floor(&history, "b"), 9);
}

#[test]
fn one_organization_does_not_displace_the_others() {
    let limits = Limits {
        topic_bytes: 16 << 10,
        ..PLENTY
    };
    let mut history = History::new(limits, at(0));
    history.push(&event(org("quiet"), 1, 8), Duration::ZERO);
    for lsn in 2..1000 {
        history.push(&event(org("loud"), lsn, 8), Duration::ZERO);
    }
    assert_eq!(told(&history, &["quiet"], 0), [1]);
    let first = floor(&history, "loud") + 1;
    assert_eq!(
        told(&history, &["loud"], 0),
        (first..1000).collect::<Vec<_>>()
    );
    // Of what it may keep it keeps most, and an event of this size takes less than a hundred bytes.
    assert!((800..900).contains(&first), "{first}");
    // An event larger than the limit is forgotten at once, and with it what was before.
    history.push(&event(org("loud"), 1000, 16 << 10), Duration::ZERO);
    assert_eq!(told(&history, &["loud"], 0), [] as [u64; 0]);
    assert_eq!(floor(&history, "loud"), 1000);
    assert_eq!(told(&history, &["quiet"], 0), [1]);
}

#[test]
fn what_came_together_goes_together_and_soon() {
    let retention = Duration::from_secs(80);
    let limits = Limits {
        retention,
        ..PLENTY
    };
    let mut history = History::new(limits, at(0));
    for lsn in 1..=100 {
        history.push(&event(org("a"), lsn, 1), Duration::from_secs(lsn));
        history.push(&event(Topic::AllOrgs, lsn, 1), Duration::from_secs(lsn));
    }
    for now in 100..=200 {
        history.expire(Duration::from_secs(now));
        let first = floor(&history, "a") + 1;
        // What is younger is there; what is older by an eighth is not.
        assert!(first <= now.saturating_sub(80) + 1, "{first} at {now}");
        assert!(first > now.saturating_sub(90).min(100), "{first} at {now}");
    }
    assert_eq!((history.bytes(), history.evicted()), (0, 200));
}

#[test]
fn organizations_without_a_past_become_unknown_when_they_are_many() {
    let limits = Limits {
        bytes: 0,
        remembered: 4,
        ..PLENTY
    };
    let mut history = History::new(limits, at(0));
    for lsn in 1..=3 {
        history.push(&event(org(&format!("o{lsn}")), lsn, 1), Duration::ZERO);
    }
    // One place is that of all organizations.
    assert_eq!((floor(&history, "o1"), floor(&history, "other")), (1, 0));
    history.push(&event(org("o4"), 4, 1), Duration::ZERO);
    assert_eq!((floor(&history, "o1"), floor(&history, "other")), (4, 4));
}

#[derive(Clone, Debug)]
enum Step {
    Push { organization: u8, id: usize },
    Expire { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_u8, 0..2000_usize).prop_map(|(organization, id)| Step::Push { organization, id }),
        1 => (0..20_u64).prop_map(|seconds| Step::Expire { seconds }),
    ]
}

proptest! {
    /// Whatever is forgotten, what is behind the floor is all there, and the bounds hold.
    #[test]
    fn nothing_behind_the_floor_is_missing(
        steps in prop::collection::vec(step(), 0..200),
        bytes in 0..40_000_usize,
        organization_bytes in 0..20_000_usize,
        remembered in 0..6_usize,
    ) {
        let retention = Duration::from_secs(30);
        let limits = Limits { bytes, topic_bytes: organization_bytes, retention, remembered };
        let mut history = History::new(limits, at(0));
        let mut all: Vec<(Topic, u64)> = Vec::new();
        let (mut lsn, mut now) = (0, Duration::ZERO);
        for step in steps {
            match step {
                Step::Push { organization, id } => {
                    lsn += 1;
                    let topic = match organization {
                        0 => Topic::AllOrgs,
                        other => org(&other.to_string()),
                    };
                    all.push((topic.clone(), lsn));
                    history.push(&event(topic, lsn, id), now);
                }
                Step::Expire { seconds } => {
                    now += Duration::from_secs(seconds);
                    history.expire(now);
                }
            }
            let kept = history.pasts.iter().map(|(_, past)| past.bytes).sum::<usize>();
            prop_assert_eq!(kept, history.bytes());
            prop_assert!(kept <= bytes);
            prop_assert!(history.empty <= remembered.max(1));
            for (_, past) in &history.pasts {
                prop_assert!(past.bytes <= organization_bytes);
            }
            for of in [&["1"][..], &["1", "3"], &["9"]] {
                let floor = of.iter().map(|org| floor(&history, org)).max().unwrap();
                for from in floor..=lsn {
                    let expected: Vec<u64> = all
                        .iter()
                        .filter(|(topic, at)| *at > from && match topic {
                            Topic::AllOrgs => true,
                            Topic::Org(organization) => of.contains(&organization.as_str()),
                            _ => false,
                        })
                        .map(|(_, at)| *at)
                        .collect();
                    prop_assert_eq!(told(&history, of, from), expected);
                }
            }
        }
    }
}

#[test]
fn what_is_remembered_is_found_from_the_end() {
    let mut history = History::new(PLENTY, at(0));
    for lsn in 1..=100 {
        let topic = org(["a", "b"][lsn as usize % 2]);
        history.push(&event(topic, lsn, lsn as usize % 3), Duration::ZERO);
    }
    let find = |history: &History, topics: &[&str], looks, record: &str| {
        let topics: Vec<Topic> = topics.iter().map(|name| org(name)).collect();
        let fits = |event: &RoutedEvent| event.record_id.as_deref() == Some(record);
        let found = history.latest(&topics, looks, fits);
        found.map(|event| event.cursor.commit_lsn.0)
    };
    assert_eq!(find(&history, &["a"], 1000, "x"), Some(100));
    assert_eq!(find(&history, &["b"], 1000, "x"), Some(97));
    assert_eq!(find(&history, &["a", "b"], 1000, ""), Some(99));
    assert_eq!(
        find(&history, &["b"], 1, "x"),
        None,
        "no further than was said"
    );
    assert_eq!(find(&history, &["c"], 1000, "x"), None);
    history.push(&event(Topic::AllOrgs, 101, 1), Duration::ZERO);
    assert_eq!(
        find(&history, &["b"], 1000, "x"),
        Some(101),
        "what is for all is for these, too"
    );
}
