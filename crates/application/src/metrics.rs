//! What is counted of questions to the application.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use rowcast_model::Asking;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    handler: &'static str,
    asking: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    handler: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Name {
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Look {
    outcome: &'static str,
}

/// The metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    asked: Family<Outcome, Counter>,
    seconds: Family<Kind, Histogram>,
    circuits: Family<Name, Gauge>,
    looks: Family<Look, Counter>,
    /// Bytes of questions that wait or are under way.
    pub questions: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            asked: Family::default(),
            // 1 ms to 16 s.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 15))
            }),
            circuits: Family::default(),
            looks: Family::default(),
            questions: Gauge::default(),
        };
        registry.register(
            "application_questions",
            "Questions to functions and webhooks of the application, by outcome",
            metrics.asked.clone(),
        );
        registry.register_with_unit(
            "application_answer",
            "Time until the application answered, or did not",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "application_circuit_open",
            "1: it failed too often and is not asked for a while",
            metrics.circuits.clone(),
        );
        registry.register(
            "application_untold",
            "Looks at handlers that wrote and called no verb, by outcome",
            metrics.looks.clone(),
        );
        registry.register_with_unit(
            "application_waiting",
            "Bytes of questions that wait or are under way",
            Unit::Bytes,
            metrics.questions.clone(),
        );
        metrics
    }

    pub fn answered(
        &self,
        handler: &'static str,
        asking: Asking,
        outcome: &'static str,
        time: Duration,
    ) {
        let label = Outcome {
            handler,
            asking: asking.name(),
            outcome,
        };
        self.asked.get_or_create(&label).inc();
        self.seconds
            .get_or_create(&Kind { handler })
            .observe(time.as_secs_f64());
    }

    /// What a look at a handler that told nobody came to.
    pub fn looked(&self, outcome: &'static str) {
        self.looks.get_or_create(&Look { outcome }).inc();
    }

    /// Names are those of the configuration, so there are few.
    pub fn circuit(&self, name: &Arc<str>, open: bool) {
        let label = Name {
            name: name.to_string(),
        };
        self.circuits.get_or_create(&label).set(open.into());
    }
}
