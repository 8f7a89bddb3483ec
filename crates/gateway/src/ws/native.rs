//! What frames of the native protocol mean.

use std::time::Instant;

use rowcast_hub::HubError;
use rowcast_wire::{ClientFrame, ErrorCode, Ref, parse, server};

use super::{
    Shared,
    admit::refusal,
    enter::{Whose, expires_in, expiry},
    event::Sent,
    listen::{Place, Said, Speech, keep_writing},
    say,
};
use crate::{
    auth::Refused,
    limits::{Exceeded, Kind},
};

/// The native protocol on one socket.
#[derive(Default)]
pub(super) struct Native(Sent);

impl Speech for Native {
    async fn take(&mut self, place: &mut Place<'_>, message: Said) -> bool {
        let text = match message {
            Said::Text(text) => text,
            Said::Binary(_) => {
                place.shared.metrics.error(ErrorCode::BinaryFrame);
                self.refuse(place, ErrorCode::BinaryFrame);
                return place.session.refused();
            }
        };
        match parse(&text, &place.shared.wire_limits()) {
            Ok(frame) => Box::pin(handle(place, &mut self.0, frame)).await,
            Err(error) => {
                place.shared.metrics.error(error.code);
                place.whose.connection.send(refusal(&error));
                place.session.refused()
            }
        }
    }

    fn refuse(&self, place: &Place<'_>, code: ErrorCode) {
        let connection = &place.whose.connection;
        connection.send(server::error(None, code, code.sentence()));
    }

    fn limited(&self, place: &Place<'_>, _: &Said, exceeded: Exceeded) {
        let connection = &place.whose.connection;
        connection.send(place.shared.limited(None, exceeded));
    }

    fn next(&self, shared: &Shared) -> Option<Instant> {
        self.0.next(shared)
    }

    fn go_on(&mut self, place: &mut Place<'_>, now: Instant) {
        let sender = place.whose.sender(place.shared);
        sender.go_on(place.session, &mut self.0, now);
    }
}

/// Handles one frame; true when patience is at its end.
async fn handle(place: &mut Place<'_>, sent: &mut Sent, frame: ClientFrame) -> bool {
    let Place {
        shared,
        socket,
        whose,
        session,
    } = place;
    let (shared, socket, whose) = (*shared, *socket, *whose);
    let Whose {
        connection, home, ..
    } = whose;
    let now = Instant::now();
    if let Some(reference) = asks(&frame)
        && let Err(exceeded) = whose.may(shared, Kind::Requests, 1, now)
    {
        connection.send(shared.limited(reference, exceeded));
        return false;
    }
    let answer = |reference: Option<&Ref>, error: &HubError| {
        shared.metrics.error(error.error_code());
        connection.send(server::error(
            reference,
            error.error_code(),
            &error.to_string(),
        ));
    };
    match frame {
        ClientFrame::Auth(_) => {
            let code = ErrorCode::AlreadyAuthenticated;
            shared.metrics.error(code);
            connection.send(server::error(None, code, code.sentence()));
            return session.refused();
        }
        ClientFrame::Subscribe(mut subscribe) => {
            subscribe.organization = subscribe.organization.or_else(|| Some(home.clone()));
            let reference = subscribe.reference.clone();
            if let Err(exceeded) = session.may_join(&whose.quota, now) {
                connection.send(shared.limited(reference.as_ref(), exceeded));
                return session.refused();
            }
            if let Err(exceeded) = whose.may(shared, Kind::Joins, 1, now) {
                connection.send(shared.limited(reference.as_ref(), exceeded));
                return false;
            }
            let grant = subscribe.grant.take();
            let shown = match grant.map(|grant| shared.grants.verify(grant.expose())) {
                None => None,
                Some(Ok(shown)) => Some(shown),
                Some(Err(refused)) => {
                    shared.metrics.error(refused.code);
                    connection.send(server::error(
                        reference.as_ref(),
                        refused.code,
                        refused.message,
                    ));
                    return session.refused();
                }
            };
            if let Err(error) = shared.hub.request(connection, *subscribe, shown) {
                answer(reference.as_ref(), &error);
                return session.refused();
            }
        }
        ClientFrame::Unsubscribe {
            reference,
            channel,
            organization,
        } => {
            let organization = organization.as_ref().unwrap_or(home);
            let ended = shared.hub.unsubscribe(
                connection,
                &channel,
                Some(organization),
                None,
                reference.as_ref(),
            );
            if let Err(error) = ended {
                answer(reference.as_ref(), &error);
            }
        }
        ClientFrame::Token { reference, token } => {
            // Checking may take time (a key set is fetched); until it succeeds the old token counts, with its end.
            let mut until = Instant::now() + shared.limits.auth_timeout;
            until = session.expires().map_or(until, |at| at.min(until));
            let verified = tokio::select! {
                verified = shared.verifier.verify(&token, &shared.hub) => verified,
                () = tokio::time::sleep_until(until.into()) => Err(Refused::unavailable()),
                () = keep_writing(socket, connection) => return false,
            };
            match verified {
                Err(refused) => {
                    shared.metrics.refused(refused.code);
                    connection.send(server::error(
                        reference.as_ref(),
                        refused.code,
                        refused.message,
                    ));
                    return session.refused();
                }
                Ok(verified) => match shared.hub.renew(connection, verified.identity) {
                    Err(error) => {
                        answer(reference.as_ref(), &error);
                        return session.refused();
                    }
                    Ok(()) => {
                        // That of an API key is told with its work.
                        if verified.organizations.is_none() {
                            session.renewed(expiry(Instant::now(), verified.expires_at));
                        }
                        let seconds = expires_in(verified.expires_at);
                        connection.send(server::token_refreshed(reference.as_ref(), seconds));
                    }
                },
            }
        }
        ClientFrame::Broadcast(broadcast) => {
            let saying = say::Saying {
                shared,
                connection,
                home,
            };
            let said = tokio::select! {
                said = saying.say(session, *broadcast) => said,
                () = keep_writing(socket, connection) => return false,
            };
            if !said {
                return session.refused();
            }
        }
        ClientFrame::Presence(mut presence) => {
            let organization = presence.organization.take();
            presence.organization = organization.or_else(|| Some(home.clone()));
            if let Err(error) = shared.hub.present(connection, &presence) {
                answer(presence.reference.as_ref(), &error);
                // A cursor that still moves when its subscription has ended is nobody's attack.
                return error.error_code() == ErrorCode::StateTooLarge && session.refused();
            }
        }
        ClientFrame::Event(event) => {
            if !whose.sender(shared).take(session, sent, *event) {
                return session.refused();
            }
        }
        ClientFrame::Ping { reference } => drop(connection.send(server::pong(reference.as_ref()))),
        ClientFrame::Pong => {}
    }
    false
}

/// The reference of a frame that asks for something; others are signs of life, or about the socket itself.
fn asks(frame: &ClientFrame) -> Option<Option<&Ref>> {
    match frame {
        ClientFrame::Subscribe(subscribe) => Some(subscribe.reference.as_ref()),
        ClientFrame::Unsubscribe { reference, .. } => Some(reference.as_ref()),
        ClientFrame::Broadcast(broadcast) => Some(broadcast.reference.as_ref()),
        ClientFrame::Event(event) => Some(event.reference.as_ref()),
        ClientFrame::Presence(presence) => Some(presence.reference.as_ref()),
        ClientFrame::Auth(_)
        | ClientFrame::Token { .. }
        | ClientFrame::Ping { .. }
        | ClientFrame::Pong => None,
    }
}
