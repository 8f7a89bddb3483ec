//! One socket of the Supabase protocol: nobody's, until a token says whose, then one like all others.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use rowcast_wire::{
    CloseCode, Frame, close_frame,
    phoenix::{self, Push, Says, Version},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;

use super::{
    Caller, NOBODY,
    speech::Phoenix,
    token::{self, Fingerprint},
};
use crate::{
    admission::Ticket,
    auth::{Refused, Verified},
    session::Session,
    ws::{
        Denied, Departed, End, Place, Read, Reader, Shared, Socket, Whose, enter_as, expiry,
        farewell, heard, listen,
    },
};

/// Somebody whom a socket belongs to.
struct Member {
    whose: Whose,
    session: Session,
    speech: Phoenix,
}

/// How nobody's socket ends.
enum Stranger {
    Close(CloseCode),
    Left(Option<Frame>),
    Gone,
}

/// Serves one socket until it ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut ticket: Ticket,
    stream: TcpStream,
    early: Vec<u8>,
    caller: Caller,
) {
    shared.metrics.sockets.inc();
    let socket = Arc::new(Socket(stream));
    let mut reader = Reader::new(
        socket.clone(),
        early,
        shared.limits.message_bytes,
        shared.incoming.clone(),
    );
    let introduced = Box::pin(introduced(
        &shared,
        &mut ticket,
        &socket,
        &mut reader,
        caller,
    ));
    match introduced.await {
        Ok(mut member) => {
            let Member {
                whose,
                session,
                speech,
            } = &mut *member;
            let ended = listen(&shared, &socket, &mut reader, whose, session, speech).await;
            let connection = whose.connection.clone();
            match ended {
                End::Close(code) => {
                    shared.metrics.closed(code);
                    shared.hub.tell_joins(&connection, code.sentence());
                    connection.close(code);
                    shared.hub.vacate(&connection, code.come_back());
                    Box::pin(farewell(&socket, Some(&connection), close_frame(code))).await;
                }
                End::Left => {
                    shared.hub.vacate(&connection, false);
                    Box::pin(farewell(&socket, Some(&connection), Frame::new())).await;
                }
                End::Gone => shared.hub.vacate(&connection, true),
            }
            shared.hub.disconnect(&connection);
        }
        Err(Stranger::Close(code)) => {
            shared.metrics.closed(code);
            Box::pin(farewell(&socket, None, close_frame(code))).await;
        }
        Err(Stranger::Left(answer)) => {
            Box::pin(farewell(&socket, None, answer.unwrap_or_default())).await;
        }
        Err(Stranger::Gone) => {}
    }
    shared.metrics.sockets.dec();
}

/// Answers everything as nobody, until a token says who it is. What has to be handled then is handled.
async fn introduced(
    shared: &Arc<Shared>,
    ticket: &mut Ticket,
    socket: &Arc<Socket>,
    reader: &mut Reader,
    caller: Caller,
) -> Result<Box<Member>, Stranger> {
    let until = Instant::now() + shared.limits.silence;
    let door = Door {
        shared,
        socket,
        version: caller.version,
        organization: caller.organization,
    };
    if let Some(verified) = caller.verified {
        match door.enter(ticket, verified, None).await {
            Ok(member) => return Ok(member),
            // Every join says why.
            Err(why) => tracing::debug!(%why, "a key of somebody who may not come in"),
        }
    }
    let mut bad = 0;
    loop {
        let message = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return Err(Stranger::Close(CloseCode::Restarting)),
            message = message(socket, reader) => message?,
            () = tokio::time::sleep_until(until.into()) => {
                return Err(Stranger::Close(CloseCode::AuthTimeout));
            }
        };
        // As many frames as a known client may send badly are enough for one that is not.
        bad += 1;
        if bad > shared.limits.bad_frames.max(20) {
            return Err(Stranger::Close(CloseCode::Protocol));
        }
        let Ok(push) = phoenix::parse(caller.version, &message, &shared.wire_limits()) else {
            continue;
        };
        let answer = match door.answer(ticket, &push).await {
            Answered::Member(mut member) => {
                let Member {
                    whose,
                    session,
                    speech,
                } = &mut *member;
                let mut place = Place {
                    shared,
                    socket,
                    whose,
                    session,
                };
                speech.handle(&mut place, push).await;
                return Ok(member);
            }
            Answered::With(answer) => answer,
            Answered::Nothing => continue,
        };
        if socket.try_write(&answer).ok() != Some(answer.len()) {
            return Err(Stranger::Gone);
        }
    }
}

/// What nobody's push comes to.
enum Answered {
    /// He is somebody; the push is to be handled.
    Member(Box<Member>),
    With(Frame),
    Nothing,
}

/// Where somebody comes in.
struct Door<'a> {
    shared: &'a Arc<Shared>,
    socket: &'a Arc<Socket>,
    version: Version,
    organization: Option<String>,
}

impl Door<'_> {
    async fn answer(&self, ticket: &mut Ticket, push: &Push) -> Answered {
        let version = self.version;
        let (join_ref, reference) = (push.join_ref.as_deref(), push.reference.as_deref());
        let reply = |result| phoenix::reply(version, join_ref, reference, &push.topic, result);
        match &push.says {
            Says::Heartbeat => Answered::With(phoenix::heartbeat_reply(version, reference)),
            Says::Leave => Answered::With(reply(Ok("{}"))),
            Says::Join(join) => match self.come_in(ticket, &push.topic, &join.access_token).await {
                Ok(member) => Answered::Member(member),
                Err(why) => Answered::With(reply(Err(&why))),
            },
            _ if reference.is_some() => Answered::With(reply(Err("unmatched topic"))),
            _ => Answered::Nothing,
        }
    }

    async fn come_in(
        &self,
        ticket: &mut Ticket,
        topic: &str,
        token: &Option<SecretString>,
    ) -> Result<Box<Member>, String> {
        let shared = self.shared;
        let token = token.as_ref().map(|token| token.expose_secret());
        let token = token.filter(|token| token::is_somebodys(token));
        let token = token.ok_or_else(|| NOBODY.to_owned())?;
        let verified = self.verify(token).await.map_err(|refused| {
            shared.metrics.refused(refused.code);
            token::reason(&refused)
        })?;
        let mut member = self.enter(ticket, verified, Some(topic)).await?;
        member.speech.token = Some(Fingerprint::of(token));
        Ok(member)
    }

    async fn verify(&self, token: &str) -> Result<Verified, Refused> {
        let shared = self.shared;
        let checking = shared.verifier.verify(token, &shared.hub);
        let unavailable = Err(Refused::unavailable());
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => unavailable,
            checked = tokio::time::timeout(shared.limits.auth_timeout, checking) => {
                checked.unwrap_or(unavailable)
            }
        }
    }

    /// Makes it the socket of somebody: in the organization that the address names, else that of the topic, else his
    /// first one.
    async fn enter(
        &self,
        ticket: &mut Ticket,
        verified: Verified,
        topic: Option<&str>,
    ) -> Result<Box<Member>, String> {
        let shared = self.shared;
        let topic = topic.and_then(|topic| topic.strip_prefix(phoenix::TOPIC_PREFIX));
        let named = topic.and_then(|topic| topic.strip_prefix("org:"));
        let of_user = shared.hub.organizations(&verified.identity);
        let named = named.filter(|named| of_user.iter().any(|own| own.as_str() == *named));
        let asked = self.organization.clone();
        let asked = asked.or_else(|| named.map(str::to_owned));
        // Of an API key it is its own first one, when none is asked for.
        let first = of_user.first().filter(|_| verified.organizations.is_none());
        let asked = asked.or_else(|| first.map(|first| first.as_str().to_owned()));
        let entered = enter_as(shared, ticket, &verified, asked).await;
        let entry = entered.map_err(|why| match why {
            Denied::NotMember => {
                "Unauthorized: the user is a member of no organization, or not of the one that the address names"
                    .to_owned()
            }
            Denied::Limited(exceeded) => {
                shared.metrics.limited(exceeded);
                format!("ConnectionRateLimitReached: {}", exceeded.message())
            }
        })?;
        let now = Instant::now();
        let sink = self.socket.clone();
        let connection = shared.hub.connect_phoenix(verified.identity.clone(), sink);
        let expires = expiry(now, verified.expires_at);
        let session = Session::new(&shared.limits, now, expires).quiet();
        let session = match verified.organizations {
            Some(_) => session.of_key(),
            None => session,
        };
        let speech = Phoenix::new(self.version);
        let whose = entry.whose(connection, verified);
        Ok(Box::new(Member {
            whose,
            session,
            speech,
        }))
    }
}

/// The next text of a stranger; anything else that is harmless counts as one without a word.
async fn message(socket: &TcpStream, reader: &mut Reader) -> Result<Bytes, Stranger> {
    reader.turn();
    match heard(socket, reader).await? {
        Read::Text(text) => Ok(text),
        Read::TooLarge => Err(Stranger::Close(CloseCode::TooLarge)),
        Read::NoRoom => Err(Stranger::Close(CloseCode::Overloaded)),
        Read::Broken => Err(Stranger::Close(CloseCode::Protocol)),
        _ => Ok(Bytes::new()),
    }
}

impl From<Departed> for Stranger {
    fn from(departed: Departed) -> Stranger {
        match departed {
            Departed::Left(answer) => Stranger::Left(answer),
            Departed::Gone => Stranger::Gone,
        }
    }
}
