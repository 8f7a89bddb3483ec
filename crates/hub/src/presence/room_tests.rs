//! A follower that applies what it is told has what the room has.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use rowcast_model::{PresenceAct, PresenceDiff, PresentUser, Sender, Timestamp};

use super::room::{Most, News, Refused, Room, Stepped, Turned};

const MOST: Most = Most {
    connections: 1000,
    connections_per_user: 3,
};

fn user(name: &str) -> Sender {
    Sender::User(name.into())
}

fn state(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn step(room: &mut Room, who: &str, connection: u64, act: PresenceAct) -> Result<Stepped, Refused> {
    room.step(&user(who), connection, &act, MOST, Timestamp(7))
}

fn join(room: &mut Room, who: &str, connection: u64, text: &str) -> Stepped {
    step(room, who, connection, PresenceAct::Join(state(text))).unwrap()
}

fn leave(room: &mut Room, who: &str, connection: u64) -> Stepped {
    step(room, who, connection, PresenceAct::Leave).unwrap()
}

fn counts(room: &Room) -> (usize, usize) {
    (room.counts().users, room.counts().connections)
}

/// What a client keeps: users in order, and the states of their connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Follower {
    users: Vec<(Sender, BTreeMap<u64, Bytes>)>,
}

impl Follower {
    fn with(list: &[Arc<PresentUser>]) -> Follower {
        let mut follower = Follower::default();
        list.iter().for_each(|user| follower.add(user));
        follower
    }

    fn add(&mut self, user: &PresentUser) {
        assert!(self.users.iter().all(|(who, _)| *who != user.who), "twice");
        let seats = user.connections.iter();
        let states = seats.map(|seat| (seat.connection, seat.state.clone()));
        self.users.push((user.who.clone(), states.collect()));
    }

    fn apply(&mut self, diff: &PresenceDiff) {
        for gone in &diff.leaves {
            let at = self.users.iter().position(|(who, _)| who == gone);
            self.users.remove(at.expect("only who is there leaves"));
        }
        for update in &diff.updates {
            let mut known = self.users.iter_mut();
            let (_, states) = known
                .find(|(who, _)| *who == update.who)
                .expect("only who is there");
            for (connection, now) in &update.connections {
                match now {
                    Some(now) => {
                        assert_ne!(states.insert(*connection, now.clone()).as_ref(), Some(now))
                    }
                    None => assert!(states.remove(connection).is_some()),
                }
            }
        }
        let more = diff.shown.iter().chain(&diff.joins);
        more.for_each(|user| self.add(user));
    }
}

/// MISSION C7: again is no other thing than once, and to leave where one is not does nothing.
#[test]
fn a_user_is_there_until_his_last_connection_is_gone() {
    let mut room = Room::default();
    let first = join(&mut room, "ada", 1, "{}");
    assert_eq!(first.turned.map(|turned| turned.came), Some(true));
    assert_eq!(join(&mut room, "ada", 2, "{}").turned, None);
    assert_eq!(counts(&room), (1, 2));
    assert!(!join(&mut room, "ada", 1, "{}").changed);
    assert!(join(&mut room, "ada", 1, r#"{"x":1}"#).changed);
    assert_eq!(leave(&mut room, "ada", 1).turned, None);
    let last = leave(&mut room, "ada", 2);
    let gone = Turned {
        came: false,
        state: state("{}"),
    };
    assert_eq!(last.turned, Some(gone));
    assert_eq!(counts(&room), (0, 0));
    assert_eq!(leave(&mut room, "ada", 2), Stepped::default());
    let update = step(&mut room, "ada", 2, PresenceAct::Update(state("{}")));
    assert_eq!(update, Err(Refused::NotThere));
}

/// research 18: an update is never a leave and a join, however short the way.
#[test]
fn who_comes_back_before_the_others_know_never_left() {
    let mut room = Room::default();
    join(&mut room, "ada", 1, "1");
    join(&mut room, "bert", 2, "2");
    room.tell(Some(10));
    let before: Vec<u64> = room.told_list().iter().map(|user| user.order).collect();
    leave(&mut room, "ada", 1);
    join(&mut room, "ada", 3, "3");
    let News { diff, .. } = room.tell(Some(10));
    let diff = diff.unwrap();
    assert!(diff.joins.is_empty() && diff.leaves.is_empty() && diff.shown.is_empty());
    let [update] = &diff.updates[..] else {
        panic!("{diff:?}");
    };
    assert_eq!(
        update.connections.as_slice(),
        [(1, None), (3, Some(state("3")))]
    );
    let after: Vec<u64> = room.told_list().iter().map(|user| user.order).collect();
    assert_eq!(before, after);
    // Whoever is told that he left comes anew, behind the others.
    leave(&mut room, "ada", 3);
    assert_eq!(room.tell(Some(10)).diff.unwrap().leaves, [user("ada")]);
    join(&mut room, "ada", 4, "4");
    assert_eq!(room.tell(Some(10)).diff.unwrap().joins.len(), 1);
    assert_eq!(room.told_list().last().unwrap().who, user("ada"));
}

#[test]
fn a_lost_connection_keeps_its_place_for_the_next_one() {
    let mut room = Room::default();
    join(&mut room, "ada", 1, "1");
    room.tell(Some(10));
    step(&mut room, "ada", 1, PresenceAct::Lose).unwrap();
    assert_eq!(room.tell(Some(10)), News::default());
    let back = join(&mut room, "ada", 2, "1");
    assert_eq!((back.turned, back.replaced), (None, Some((1, 1))));
    let diff = room.tell(Some(10)).diff.unwrap();
    assert_eq!(
        (diff.updates.len(), diff.joins.len(), diff.leaves.len()),
        (1, 0, 0)
    );
    assert_eq!(counts(&room), (1, 1));
    // The old one is not there any more: to let it go changes nothing.
    assert!(!leave(&mut room, "ada", 1).changed);
}

#[test]
fn limits_refuse_and_change_nothing() {
    let mut room = Room::default();
    let most = Most {
        connections: 3,
        connections_per_user: 2,
    };
    let join = |room: &mut Room, who: &str, connection| {
        let act = PresenceAct::Join(state("{}"));
        room.step(&user(who), connection, &act, most, Timestamp(0))
            .map(drop)
    };
    assert_eq!(join(&mut room, "ada", 1), Ok(()));
    assert_eq!(join(&mut room, "ada", 2), Ok(()));
    assert_eq!(join(&mut room, "ada", 3), Err(Refused::FullOfUser));
    assert_eq!(join(&mut room, "bert", 4), Ok(()));
    assert_eq!(join(&mut room, "carl", 5), Err(Refused::Full));
    assert_eq!(counts(&room), (2, 3));
    // Whoever is there may still change his state.
    assert_eq!(join(&mut room, "ada", 1), Ok(()));
}

#[test]
fn of_a_large_room_those_who_came_first_are_listed() {
    let mut room = Room::default();
    for at in 0..5 {
        join(&mut room, &format!("user {at}"), at, "{}");
    }
    room.tell(Some(3));
    assert_eq!(room.told_list().len(), 3);
    // Beyond the list only the counts change.
    join(&mut room, "late", 9, "{}");
    let news = room.tell(Some(3));
    assert_eq!(
        (news.diff, news.counts_changed),
        (Some(PresenceDiff::default()), true)
    );
    join(&mut room, "late", 9, r#"{"x":1}"#);
    assert_eq!(room.tell(Some(3)), News::default());
    // Who moves up was there before.
    leave(&mut room, "user 1", 1);
    let diff = room.tell(Some(3)).diff.unwrap();
    assert_eq!(diff.leaves, [user("user 1")]);
    assert_eq!(diff.shown.len(), 1);
    assert_eq!(diff.shown[0].who, user("user 3"));
    assert!(diff.joins.is_empty());
}

#[derive(Clone, Debug)]
enum Happens {
    Joins(u8, u64, u8),
    Updates(u8, u64, u8),
    Leaves(u8, u64),
    Lost(u8, u64),
    Told,
    Follows,
}

fn happens() -> impl Strategy<Value = Happens> {
    let who = 0_u8..6;
    let connection = 0_u64..4;
    prop_oneof![
        4 => (who.clone(), connection.clone(), 0_u8..3).prop_map(|(w, c, s)| Happens::Joins(w, c, s)),
        2 => (who.clone(), connection.clone(), 0_u8..3).prop_map(|(w, c, s)| Happens::Updates(w, c, s)),
        3 => (who.clone(), connection.clone()).prop_map(|(w, c)| Happens::Leaves(w, c)),
        1 => (who, connection).prop_map(|(w, c)| Happens::Lost(w, c)),
        3 => Just(Happens::Told),
        1 => Just(Happens::Follows),
    ]
}

proptest! {
    /// Whenever somebody begins to follow, and however little of the room is listed: the list he gets and every
    /// difference since make what is there. A naive count of users and connections agrees.
    #[test]
    fn a_follower_has_what_the_room_has(
        steps in prop::collection::vec(happens(), 0..120),
        listed in 1_usize..8,
    ) {
        let mut room = Room::default();
        let mut followers: Vec<Follower> = Vec::new();
        let mut fresh = 0;
        // Who is there with which connections, and whether each is lost; in the order of coming it is the room's.
        let mut naive: BTreeMap<u8, BTreeMap<u64, (u8, bool)>> = BTreeMap::new();
        for step in steps.into_iter().chain([Happens::Follows, Happens::Told]) {
            // Connections have one user each.
            let number = |who: u8, connection: u64| u64::from(who) * 100 + connection;
            let mut act = |who: u8, connection, act| {
                room.step(&user(&who.to_string()), number(who, connection), &act, MOST, Timestamp(0))
            };
            let text = |of: u8| state(&of.to_string());
            match step {
                Happens::Joins(who, connection, of) => {
                    let before = naive.get(&who).cloned().unwrap_or_default();
                    let done = act(who, connection, PresenceAct::Join(text(of)));
                    let lost = before.iter().any(|(_, (_, lost))| *lost);
                    match before.contains_key(&connection) || lost || before.len() < 3 {
                        true => {
                            let done = done.unwrap();
                            if let Some((replaced, _)) = done.replaced {
                                let seats = naive.get_mut(&who).unwrap();
                                let gone = seats.remove(&(replaced % 100));
                                prop_assert!(gone.unwrap().1);
                            }
                            let seat = naive.entry(who).or_default().entry(connection);
                            let seat = seat.or_insert((of, false));
                            seat.0 = of;
                        }
                        false => prop_assert_eq!(done, Err(Refused::FullOfUser)),
                    }
                }
                Happens::Updates(who, connection, of) => {
                    let done = act(who, connection, PresenceAct::Update(text(of)));
                    match naive.get_mut(&who).and_then(|seats| seats.get_mut(&connection)) {
                        Some(seat) => seat.0 = of,
                        None => prop_assert_eq!(done, Err(Refused::NotThere)),
                    }
                }
                Happens::Leaves(who, connection) => {
                    act(who, connection, PresenceAct::Leave).unwrap();
                    if let Some(seats) = naive.get_mut(&who) {
                        seats.remove(&connection);
                        if seats.is_empty() {
                            naive.remove(&who);
                        }
                    }
                }
                Happens::Lost(who, connection) => {
                    act(who, connection, PresenceAct::Lose).unwrap();
                    if let Some(seat) = naive.get_mut(&who).and_then(|seats| seats.get_mut(&connection)) {
                        seat.1 = true;
                    }
                }
                Happens::Follows => fresh += 1,
                Happens::Told => {
                    let any = fresh > 0 || !followers.is_empty();
                    let before = followers.first().cloned();
                    let News { diff, .. } = room.tell(any.then_some(listed));
                    match &diff {
                        Some(diff) => followers.iter_mut().for_each(|one| one.apply(diff)),
                        None => prop_assert_eq!(followers.first().cloned(), before),
                    }
                    let now = Follower::with(room.told_list());
                    followers.extend((0..std::mem::take(&mut fresh)).map(|_| now.clone()));
                    let there: Vec<_> = room.users_after(None).take(listed).cloned().collect();
                    if any {
                        prop_assert_eq!(&now, &Follower::with(&there));
                    }
                    prop_assert!(followers.iter().all(|one| *one == now));
                }
            }
            let connections: usize = naive.values().map(BTreeMap::len).sum();
            prop_assert_eq!(counts(&room), (naive.len(), connections));
            for (who, seats) in &naive {
                for (connection, (of, _)) in seats {
                    let there = room.state(&user(&who.to_string()), number(*who, *connection));
                    prop_assert_eq!(there, Some(&text(*of)));
                }
            }
        }
    }
}
