//! A subscriber as an application would write one: it keeps its copy over all connections, resumes with its
//! cursor, and reads again when it is told to.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_model::Cursor;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    app::{Database, LEAVING, TABLES, View, Who},
    copy::{Copy, Need, Wrong, short},
    forge::{Expected, forge},
    proxy::Proxy,
    session::{Arrival, Session, Surroundings},
    tally::Tally,
};
use crate::harness::{client::Frame, rng::Rng, token};

/// How many of the last events are kept for people who look for a mistake.
const HISTORY: usize = 4000;
/// A socket that is told so long that the service knows nothing new looks for another one.
const STALE: Duration = Duration::from_secs(4);
const NO_REPLY: &str = "no reply";
const REPLY: Duration = Duration::from_secs(10);

/// What the test tells a subscriber to do.
#[derive(Debug)]
pub enum Order {
    Reconnect,
    /// Reconnect with a cursor of before.
    OldCursor(u64),
    /// Reconnect with a cursor that nobody handed out, look, and come back with the right one.
    Forge(u64),
    /// Compare the copy with Postgres, while nobody writes.
    Check(oneshot::Sender<()>),
}

/// The test's end of a subscriber.
pub struct Handle {
    pub name: String,
    pub line: Arc<Proxy>,
    pub orders: mpsc::UnboundedSender<Order>,
    pub stall: watch::Sender<bool>,
    /// The largest mark in the copy.
    pub mark: watch::Receiver<i64>,
}

/// Starts a subscriber that connects over `line`.
pub fn start(
    number: usize,
    who: Who,
    line: Proxy,
    url: &str,
    tally: Arc<Tally>,
    seed: u64,
) -> Handle {
    let name = format!("{number} {} {} {:?}", who.user, who.channel(), who.view);
    let (orders, taken) = mpsc::unbounded_channel();
    let (stall, stalled) = watch::channel(false);
    let (say, mark) = watch::channel(-1);
    let line = Arc::new(line);
    let subscriber = Subscriber {
        around: Surroundings {
            name: name.clone(),
            line: line.clone(),
            stall: stalled,
            tally: tally.clone(),
        },
        who,
        copy: Copy::new(who),
        next: Start::Own,
        phase: Phase::Opening,
        number: 0,
        sql: Database::new(url),
        tally,
        orders: taken,
        mark: say,
        history: VecDeque::new(),
        cursors: VecDeque::new(),
        noted: Instant::now(),
        stale_since: None,
        old_cursor: false,
        wait: Duration::ZERO,
        rng: Rng::new(seed),
    };
    tokio::spawn(subscriber.run());
    Handle {
        name,
        line,
        orders,
        stall,
        mark,
    }
}

/// With which cursor the next connection begins.
#[derive(Clone, Debug)]
enum Start {
    Own,
    Old(Cursor),
    Forged(String, Expected),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Events of the channel do not count before the reply to our own subscription.
    Opening,
    Subscribed,
    /// The membership ended: nothing may come.
    Out,
}

/// The session is over, and why.
struct Over(String);

struct Subscriber {
    around: Surroundings,
    who: Who,
    copy: Copy,
    next: Start,
    phase: Phase,
    number: u64,
    sql: Database,
    tally: Arc<Tally>,
    orders: mpsc::UnboundedReceiver<Order>,
    mark: watch::Sender<i64>,
    history: VecDeque<String>,
    /// Cursors of before, one for each second.
    cursors: VecDeque<Cursor>,
    noted: Instant,
    stale_since: Option<Instant>,
    /// The test chose the cursor with which this connection began.
    old_cursor: bool,
    /// Before the next connection.
    wait: Duration,
    rng: Rng,
}

impl Subscriber {
    async fn run(mut self) {
        loop {
            let Over(why) = match self.session().await {
                Ok(()) => return,
                Err(over) => over,
            };
            self.remember(format!("-- {why}"));
            let pause = self.wait + Duration::from_millis(20 + self.rng.below(200) as u64);
            self.wait = Duration::ZERO;
            tokio::time::sleep(pause).await;
        }
    }

    /// One connection, to its end; `Ok` when the test is over.
    async fn session(&mut self) -> Result<(), Over> {
        (self.phase, self.stale_since) = (Phase::Opening, None);
        let mut session = Session::open(self.around.clone()).await.map_err(Over)?;
        let auth = json!({ "type": "auth", "token": token::session(self.who.user), "organizationId": self.who.organization });
        session.send(auth).await;
        self.until(&mut session, |frame| frame.is("auth_success"))
            .await?;
        if self.who.view == View::Personal {
            let channel = format!("org:{}", self.who.organization);
            session
                .send(json!({ "type": "unsubscribe", "channel": channel, "ref": "out" }))
                .await;
            self.until(&mut session, |frame| frame.json["ref"] == "out")
                .await?;
        }
        let start = std::mem::replace(&mut self.next, Start::Own);
        if let Start::Forged(text, expected) = start {
            return self.forged(&mut session, &text, expected).await;
        }
        self.old_cursor = matches!(start, Start::Old(_));
        if let Start::Old(cursor) = start {
            self.copy.cursor = Some(cursor);
        }
        self.subscribe(&mut session).await?;
        loop {
            let tick = Duration::from_millis(200);
            tokio::select! {
                order = self.orders.recv() => match order {
                    None => return Ok(()),
                    Some(order) => self.obey(order).await?,
                },
                arrival = session.from.recv() => {
                    let frame = self.frame(arrival)?;
                    self.handle(&mut session, frame).await?;
                }
                () = tokio::time::sleep(tick) => {}
            }
            if self
                .stale_since
                .is_some_and(|since| since.elapsed() > STALE)
            {
                self.tally.count("left a stale service");
                return Err(Over("stale".into()));
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), Over> {
        match order {
            Order::Reconnect => Err(Over("told to".into())),
            Order::OldCursor(chance) => {
                let epoch = self.copy.cursor.map(|cursor| cursor.epoch);
                self.cursors.retain(|cursor| Some(cursor.epoch) == epoch);
                if !self.cursors.is_empty() {
                    let at = chance as usize % self.cursors.len();
                    self.next = Start::Old(self.cursors[at]);
                }
                Err(Over("told to use an old cursor".into()))
            }
            Order::Forge(chance) => {
                if let Some(cursor) = self.copy.cursor {
                    let (text, expected) = forge(cursor, chance);
                    self.next = Start::Forged(text, expected);
                }
                Err(Over("told to forge a cursor".into()))
            }
            Order::Check(done) => {
                self.check().await;
                let _ = done.send(());
                Ok(())
            }
        }
    }

    fn request(&mut self, cursor: Option<String>) -> Value {
        self.number += 1;
        let mut request =
            json!({ "type": "subscribe", "channel": self.who.channel(), "ref": self.number });
        match self.who.view {
            View::All | View::Personal => {}
            View::Latest => request["mode"] = json!("latest"),
            View::Open => {
                let filter = json!({ "column": "status", "op": "eq", "value": "open" });
                request["tables"] = TABLES
                    .iter()
                    .map(|table| match table.name {
                        "items" => json!({ "table": "items", "filter": filter }),
                        name => json!({ "table": name }),
                    })
                    .collect();
            }
        }
        if let Some(cursor) = cursor {
            request["cursor"] = json!(cursor);
        }
        request
    }

    /// Subscribes where the copy ends, and reads everything when there is none yet.
    async fn subscribe(&mut self, session: &mut Session) -> Result<(), Over> {
        let given = self.copy.cursor;
        let request = self.request(given.map(|cursor| cursor.to_string()));
        let number = self.number;
        self.remember(format!("-- subscribe from {given:?}"));
        session.send(request).await;
        let reply = self
            .until(session, |frame| frame.json["ref"] == number)
            .await?;
        if !reply.is("subscribed") {
            return Err(self.refused(&reply));
        }
        let cursor = cursor_of(&reply).map_err(Over)?;
        self.phase = Phase::Subscribed;
        self.copy.begin(cursor);
        match given {
            None => self.read_all().await,
            Some(_) => self.tally.count("resumed"),
        }
        Ok(())
    }

    /// Whether the membership comes and goes.
    fn leaves(&self) -> bool {
        (self.who.user, self.who.organization) == LEAVING
    }

    /// Whether a refusal is one that has to be.
    fn refused(&mut self, reply: &Frame) -> Over {
        let code = reply.json["code"].as_u64().unwrap_or(0);
        match code {
            206 if self.leaves() => self.tally.count("refused: not a member"),
            // Not a member in the eyes of a service that has not read that far, or not streaming yet.
            500 => self.tally.count("refused: not ready"),
            _ => self
                .tally
                .complain(format!("{}: {}", self.around.name, reply.text)),
        }
        Over(reply.text.clone())
    }

    /// Subscribes with a cursor that nobody handed out, and looks at what is answered.
    async fn forged(
        &mut self,
        session: &mut Session,
        text: &str,
        expected: Expected,
    ) -> Result<(), Over> {
        let request = self.request(Some(text.to_owned()));
        let number = self.number;
        session.send(request).await;
        let reply = self
            .until(session, |frame| frame.json["ref"] == number)
            .await?;
        let seen = if reply.is("error") {
            if reply.json["code"] != 305 {
                return Err(self.refused(&reply));
            }
            Expected::Refusal
        } else if expected == Expected::Resync {
            let found = self.until(session, |frame| frame.is("resync")).await;
            if let Err(Over(why)) = found {
                // A connection that breaks meanwhile says nothing.
                if why == NO_REPLY {
                    self.tally.complain(format!(
                        "{}: forged {text}: no resync behind {}",
                        self.around.name, reply.text
                    ));
                }
                return Err(Over(why));
            }
            Expected::Resync
        } else {
            Expected::Anything
        };
        if expected != seen {
            self.tally.complain(format!(
                "{}: forged {text:.80}: {expected:?} expected, {}",
                self.around.name, reply.text
            ));
        }
        Err(Over("enough forged".into()))
    }

    /// Reads until a frame fulfils `wanted`. Until our own subscription stands, events are only looked at.
    async fn until(
        &mut self,
        session: &mut Session,
        wanted: impl Fn(&Frame) -> bool,
    ) -> Result<Frame, Over> {
        let late = || Over(NO_REPLY.into());
        let deadline = tokio::time::Instant::now() + REPLY;
        loop {
            let arrival = tokio::time::timeout_at(deadline, session.from.recv())
                .await
                .map_err(|_| late())?;
            let frame = self.frame(arrival)?;
            if wanted(&frame) {
                return Ok(frame);
            }
            match frame.text_of("type") {
                "error" => return Err(self.refused(&frame)),
                "ping" => session.send(json!({ "type": "pong" })).await,
                "goodbye" => self.goodbye(&frame),
                // Every socket begins on its organization's channel, the personal one too.
                _ if frame.is_event()
                    && self.who.view == View::Personal
                    && frame.text_of("channel") == format!("org:{}", self.who.organization) => {}
                _ if frame.is_event() => {
                    self.tally.event();
                    if let Err(wrong) = self.copy.look(&frame) {
                        self.wrong(wrong);
                    }
                }
                _ => {}
            }
        }
    }

    fn frame(&mut self, arrival: Option<Arrival>) -> Result<Frame, Over> {
        match arrival {
            Some(Arrival::Frame(frame)) => Ok(frame),
            Some(Arrival::End(Some(code), why)) => {
                if (4000..4500).contains(&code) || code == 4504 && self.leaves() {
                    self.tally.count(format!("closed with {code}"));
                } else {
                    self.tally
                        .complain(format!("{}: closed with {code} {why}", self.around.name));
                }
                Err(Over(format!("closed with {code} {why}")))
            }
            Some(Arrival::End(None, why)) => Err(Over(why)),
            None => Err(Over("the reader ended".into())),
        }
    }

    async fn handle(&mut self, session: &mut Session, frame: Frame) -> Result<(), Over> {
        let ours = frame.text_of("channel") == self.who.channel();
        if frame.is_event() {
            return self.event(&frame).await;
        }
        match frame.text_of("type") {
            "commit" if ours => self.reached(&frame),
            "recovered" if ours => {
                self.remember(frame.text.clone());
                self.tally.count("recovered");
                self.reached(&frame);
            }
            "position" if self.phase == Phase::Subscribed => self.reached(&frame),
            "resync" if ours => {
                self.remember(frame.text.clone());
                let old = if self.old_cursor {
                    ", cursor of before"
                } else {
                    ""
                };
                self.tally
                    .count(format!("resync {}{old}", frame.text_of("reason")));
                self.copy.begin(cursor_of(&frame).map_err(Over)?);
                self.read_all().await;
            }
            "unsubscribed" if ours => {
                self.remember(frame.text.clone());
                self.tally.count("membership ended");
                if !self.leaves() {
                    let name = &self.around.name;
                    self.tally
                        .complain(format!("{name}: is a member all the time: {}", frame.text));
                }
                self.phase = Phase::Out;
            }
            "membership" if frame.json["organizationId"] == self.who.organization => {
                let member = !frame.json["roles"].is_null();
                if member && self.phase == Phase::Out {
                    self.subscribe(session).await?;
                }
            }
            "status" => {
                let stale = frame.text_of("state") == "stale";
                self.tally
                    .count(format!("status {}", frame.text_of("state")));
                self.stale_since = stale.then(Instant::now);
            }
            "goodbye" => self.goodbye(&frame),
            "ping" => session.send(json!({ "type": "pong" })).await,
            "error" => return Err(self.refused(&frame)),
            _ => {}
        }
        Ok(())
    }

    fn goodbye(&mut self, frame: &Frame) {
        self.tally.count("goodbye");
        let wanted = Duration::from_millis(frame.json["retryAfterMs"].as_u64().unwrap_or(0));
        self.wait = wanted.min(Duration::from_secs(1));
    }

    async fn event(&mut self, frame: &Frame) -> Result<(), Over> {
        self.tally.event();
        self.remember(short(frame));
        let ours = frame.text_of("channel") == self.who.channel();
        if self.phase == Phase::Out && ours {
            let text = format!(
                "{}: after the membership ended: {}",
                self.around.name,
                short(frame)
            );
            self.tally.wrong(&self.tally.foreign, text);
            return Ok(());
        }
        let need = match self.copy.apply(frame) {
            Ok(need) => need,
            Err(wrong) => {
                self.wrong(wrong);
                return Ok(());
            }
        };
        if let Need::Read(at, record) = need {
            self.read(at, record.as_deref()).await;
        }
        self.note_cursor();
        self.mark.send_replace(self.copy.mark());
        Ok(())
    }

    fn wrong(&self, wrong: Wrong) {
        let counter = match wrong {
            Wrong::Duplicate(_) => &self.tally.duplicates,
            Wrong::Foreign(_) => &self.tally.foreign,
            Wrong::Odd(_) => &self.tally.lost,
        };
        let text = format!("{}: {wrong:?}", self.around.name);
        self.tally.wrong(counter, text);
    }

    fn reached(&mut self, frame: &Frame) {
        match cursor_of(frame) {
            Ok(cursor) => {
                if let Err(wrong) = self.copy.reached(cursor) {
                    self.tally
                        .complain(format!("{}: {wrong:?}", self.around.name));
                }
            }
            Err(text) => self.tally.complain(format!("{}: {text}", self.around.name)),
        }
    }

    fn note_cursor(&mut self) {
        if self.noted.elapsed() > Duration::from_secs(1) {
            self.noted = Instant::now();
            self.cursors.extend(self.copy.cursor);
            if self.cursors.len() > 60 {
                self.cursors.pop_front();
            }
        }
    }

    async fn read_all(&mut self) {
        let who = self.who;
        for (at, table) in TABLES.iter().enumerate() {
            if who.tables().any(|of| of.name == table.name) {
                self.read(at, None).await;
            }
        }
        self.mark.send_replace(self.copy.mark());
    }

    /// Reads one record or a table, as often as it takes: Postgres may be down.
    async fn read(&mut self, at: usize, record: Option<&str>) {
        let begin = Instant::now();
        let found = loop {
            let found = match self.sql.client().await {
                Ok(client) => self.who.read(client, &TABLES[at], record).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => break found,
                Err(error) if begin.elapsed() > Duration::from_secs(60) => {
                    self.tally
                        .complain(format!("{}: cannot read: {error:?}", self.around.name));
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        self.remember(format!(
            "-- read {} {record:?}: {} rows",
            TABLES[at].name,
            found.len()
        ));
        self.copy.put(at, record, found);
    }

    /// Nobody writes, and the last mark is here: the copy has to equal what Postgres says.
    async fn check(&mut self) {
        let mut truth = self.copy.clone();
        std::mem::swap(&mut self.copy, &mut truth);
        self.read_all().await;
        std::mem::swap(&mut self.copy, &mut truth);
        let wrong = self.copy.differences(&truth.rows);
        self.tally.count("copies compared");
        if !wrong.is_empty() {
            let mut text = format!("{}: {} differences", self.around.name, wrong.len());
            for (_, difference) in wrong.iter().take(4) {
                text += &format!("\n    {difference}");
            }
            text += "\n  what came about the first, and what else happened:";
            let about = format!("\"{}\"", wrong[0].0);
            let lines: Vec<&String> = self
                .history
                .iter()
                .filter(|line| {
                    line.contains(&about)
                        || !line.starts_with('{')
                        || !line.contains("postgres_changes")
                })
                .collect();
            for line in &lines[lines.len().saturating_sub(60)..] {
                text += &format!("\n    {line:.400}");
            }
            self.tally.wrong(&self.tally.lost, text);
            self.copy.rows = truth.rows;
        }
    }

    fn remember(&mut self, line: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(line);
    }
}

fn cursor_of(frame: &Frame) -> Result<Cursor, String> {
    frame
        .text_of("cursor")
        .parse()
        .map_err(|_| format!("no cursor: {}", frame.text))
}
