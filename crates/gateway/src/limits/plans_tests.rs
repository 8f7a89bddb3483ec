//! What is asked, how often, and what counts when there is no answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::*;
use crate::limits::LevelRates;

/// Answers what it is set to, when it is let.
struct Answers {
    asked: AtomicUsize,
    let_through: Semaphore,
    answer: Mutex<Result<Option<String>, PlanError>>,
}

impl PlanSource for Answers {
    fn limits(
        self: Arc<Self>,
        organization: OrgId,
    ) -> BoxFuture<'static, Result<Option<String>, PlanError>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if organization.as_str() != "quick" {
                self.let_through.acquire().await.unwrap().forget();
            }
            self.answer.lock().clone()
        }
        .boxed()
    }
}

fn plans(answer: Result<Option<&str>, &str>) -> (Arc<Plans>, Arc<Answers>) {
    let answer = match answer {
        Ok(json) => Ok(json.map(str::to_owned)),
        Err(why) => Err(PlanError(why.to_owned())),
    };
    let source = Arc::new(Answers {
        asked: AtomicUsize::new(0),
        let_through: Semaphore::new(0),
        answer: Mutex::new(answer),
    });
    let platform = Quota {
        connections: 7,
        connection: LevelRates::default(),
        user: LevelRates::default(),
        organization: LevelRates::default(),
    };
    let given: Arc<dyn PlanSource> = source.clone();
    let plans = Plans::new(Some(given), platform, GatewayMetrics::default());
    (Arc::new(plans), source)
}

/// G33: many who come at once are one question, and a slow answer for one organization is waited for by nobody else.
#[tokio::test]
async fn those_who_come_at_once_are_one_question_and_others_do_not_wait() {
    let (plans, source) = plans(Ok(Some(r#"{"connections":50}"#)));
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let plans = plans.clone();
            tokio::spawn(async move { plans.of(&"acme".into(), 0).await.connections })
        })
        .collect();
    assert_eq!(plans.of(&"quick".into(), 0).await.connections, 50);
    assert!(waiting.iter().all(|one| !one.is_finished()));
    source.let_through.add_permits(1);
    for one in waiting {
        assert_eq!(one.await.unwrap(), 50);
    }
    // Known for a while.
    assert_eq!(plans.of(&"acme".into(), 0).await.connections, 50);
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
}

/// G35: what changes counts for who comes after it.
#[tokio::test]
async fn a_change_of_the_plans_is_asked_for_at_once() {
    let (plans, source) = plans(Ok(Some(r#"{"connections":50}"#)));
    let quick = "quick".into();
    assert_eq!(plans.of(&quick, 3).await.connections, 50);
    *source.answer.lock() = Ok(Some(r#"{"connections":60}"#.into()));
    assert_eq!(plans.of(&quick, 3).await.connections, 50);
    assert_eq!(plans.of(&quick, 4).await.connections, 60);
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
}

/// G34: no row, an error, nonsense, and no answer at all.
#[tokio::test]
async fn what_cannot_be_found_out_is_what_is_configured() {
    for answer in [
        Ok(None),
        Err("no such table"),
        Ok(Some("nonsense")),
        Ok(Some(r#"{"plan":"free","connections":null}"#)),
    ] {
        let (plans, _) = plans(answer);
        assert_eq!(plans.of(&"quick".into(), 0).await.connections, 7);
    }
    let (plans, _) = plans(Ok(Some(r#"{"connections":50}"#)));
    let begun = Instant::now();
    assert_eq!(plans.of(&"silent".into(), 0).await.connections, 7);
    assert!(begun.elapsed() >= PATIENCE);
    assert_eq!(plans.of(&"quick".into(), 0).await.connections, 50);
}

#[tokio::test]
async fn what_was_known_counts_while_nothing_better_is() {
    let (plans, source) = plans(Ok(Some(r#"{"connections":50}"#)));
    let quick = "quick".into();
    assert_eq!(plans.of(&quick, 0).await.connections, 50);
    *source.answer.lock() = Err(PlanError("gone".into()));
    assert_eq!(plans.of(&quick, 1).await.connections, 50);
    // Not asked by everybody again at once.
    assert_eq!(plans.of(&quick, 1).await.connections, 50);
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
    // A row that is gone is gone.
    *source.answer.lock() = Ok(None);
    assert_eq!(plans.of(&quick, 2).await.connections, 7);
}

#[tokio::test]
async fn no_more_organizations_are_remembered_than_there_is_room_for() {
    let (plans, source) = plans(Ok(Some(r#"{"connections":50}"#)));
    source.let_through.add_permits(2 * MOST_PLANS);
    for i in 0..MOST_PLANS + 10 {
        let quota = plans.of(&format!("o{i}").into(), 0).await;
        assert_eq!(quota.connections, 50, "everybody has his own all the same");
        assert!(plans.state.lock().known.len() <= MOST_PLANS);
    }
}
