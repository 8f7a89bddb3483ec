//! What a socket, a user and an organization may use: how many sockets, and how often what.
//!
//! [`Quota`] is what one organization may, by its plan or the configuration; [`Plans`] finds it out when a
//! socket comes, and [`Gates`] counts for users and organizations. What one socket alone may is counted in its
//! [`crate::session::Session`]. Promises: one's excess is refused to him and costs nobody else; nothing
//! here grows with what clients send.

mod gates;
mod plans;
mod quota;

pub use gates::{GATE_BYTES, MOST_COUNTED};
pub use plans::{MOST_PLANS, PlanError, PlanSource};
pub use quota::{Exceeded, Kind, Level, LevelRates, Quota};

pub(crate) use gates::{Gates, Who};
pub(crate) use plans::Plans;
