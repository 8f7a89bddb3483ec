//! Who is there: the members of channels whose rules say that they have some.
//!
//! A [`room::Room`] is one channel as a value: its users, their connections, and what those who follow it were told.
//! [`rooms::Rooms`] are all of them with their limits and times; time is passed in. [`seats`] connects them with
//! subscriptions: a member is a connection that is subscribed to the channel, so whatever ends the subscription ends
//! that, too. [`telling`] hands out what has changed, in parts, so that nobody else has to wait.
//!
//! Promises: a follower that takes the list it got and every difference since has exactly what the room has (of a
//! large room: the users who came first, and how many there are); what changes several times between two
//! differences is told once; a difference is encoded once for all who get it; a change of a state is never told as a leave
//! and a join.

pub(crate) mod hall;
mod limits;
mod phoenix;
pub(crate) mod room;
pub(crate) mod rooms;
pub(crate) mod seats;
mod telling;

#[cfg(test)]
mod room_tests;

pub use limits::PresenceLimits;
pub use rooms::Turning;
pub use seats::PresentPage;
pub use telling::PresenceWork;
