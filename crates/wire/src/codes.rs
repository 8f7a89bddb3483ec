//! Numbers of errors and of closes. Owns both tables; docs and clients are checked against them.
//!
//! A close between 4000 and 4499 says: come back, with the last cursor. A close from 4500 to 4999
//! says: do not come back before something is changed (the token, the program, the configuration).

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:literal, $text:literal, $sentence:literal, $back:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum $name {
            $(#[doc = $sentence] $variant = $number,)+
        }

        impl $name {
            /// Every code, in order of its number.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                self as u16
            }

            /// The stable name on the wire.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// What it means and what mends it.
            pub fn sentence(self) -> &'static str {
                match self { $($name::$variant => $sentence),+ }
            }

            /// The code with this number.
            pub fn from_number(number: u16) -> Option<$name> {
                match number { $($number => Some($name::$variant),)+ _ => None }
            }

            /// Whether trying the same again, later, can succeed.
            pub fn come_back(self) -> bool {
                match self { $($name::$variant => $back),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

table! {
    /// Why one frame was refused. The socket stays open unless a close follows.
    ErrorCode {
        MalformedJson = 100, "malformed_json", "The frame is not valid JSON text.", false;
        UnknownType = 101, "unknown_type", "The frame has no `type` that this version knows.", false;
        InvalidField = 102, "invalid_field", "A field is missing or has a wrong type or size; the message names it.", false;
        TooDeep = 103, "too_deep", "The JSON is nested deeper than allowed.", false;
        TooLarge = 104, "too_large", "The frame is larger than allowed.", false;
        BinaryFrame = 105, "binary_frame", "Binary frames are not understood; send JSON text.", false;
        InvalidParameter = 110, "invalid_parameter", "A parameter of the address is unknown, or has a wrong value; the message names it.", false;
        TokenInAddress = 111, "token_in_address", "A token was sent as a part of the address, where it ends up in logs; send it in the header Authorization.", false;
        MethodNotAllowed = 112, "method_not_allowed", "The address understands another method; the header Allow names it.", false;
        OriginForbidden = 113, "origin_forbidden", "Pages of this origin may not connect; see ALLOWED_ORIGINS.", false;
        AuthRequired = 200, "auth_required", "The first frame must be `auth`.", false;
        TokenInvalid = 201, "token_invalid", "The token or API key is not valid here; get another one.", false;
        TokenExpired = 202, "token_expired", "The token has expired; get a new one and send it.", false;
        TokenNotYetValid = 203, "token_not_yet_valid", "The token is not valid yet; check the clocks.", true;
        TokenAudience = 204, "token_audience", "The token was made for another audience.", false;
        TokenIssuer = 205, "token_issuer", "The token comes from an issuer that is not accepted here.", false;
        NotMember = 206, "not_member", "The user is not a member of this organization.", false;
        UserChanged = 207, "user_changed", "A refreshed token must be of the same user; open a new socket instead.", false;
        AlreadyAuthenticated = 208, "already_authenticated", "This socket is authenticated; send `token` to refresh.", false;
        KeyRevoked = 209, "key_revoked", "The API key was revoked; use another one.", false;
        AuthUnavailable = 210, "auth_unavailable", "The token cannot be checked at the moment; try again.", true;
        UnknownChannel = 300, "unknown_channel", "The channel name is not understood, or no rule is about it: org:<id>, user:<id>, tenant:<id>:<table>, or a name that fits a pattern of rowcast.channels.", false;
        ChannelForbidden = 301, "channel_forbidden", "This channel belongs to somebody else, or its rule does not let the user in.", false;
        NotSubscribed = 302, "not_subscribed", "There is no subscription to this channel.", false;
        InvalidFilter = 303, "invalid_filter", "The filter is not understood; the message says where.", false;
        UnknownColumn = 304, "unknown_column", "A filter or column list names a column that the table does not publish.", false;
        InvalidCursor = 305, "invalid_cursor", "The cursor was not handed out by this service; leave it away to start from now.", false;
        InvalidTables = 306, "invalid_tables", "The table list does not fit the channel; the message says why.", false;
        MaskedColumn = 307, "masked_column", "A filter names a column that is masked for this subscriber; leave it out.", false;
        OrganizationNeeded = 308, "organization_needed", "The channel belongs to an organization and none was named; send organizationId.", false;
        SendForbidden = 309, "send_forbidden", "Clients may not send on this channel.", false;
        UndeclaredEvent = 310, "undeclared_event", "The event is not among those that are declared for this channel or namespace.", false;
        Refused = 320, "refused", "The application says no; `reason` is its own code, the message is its own.", false;
        ApplicationUnavailable = 321, "application_unavailable", "The application does not answer at the moment; try again.", true;
        ApplicationFailed = 322, "application_failed", "The application failed, or is not set up; its operator finds the reason in the log.", false;
        GrantInvalid = 323, "grant_invalid", "The channel wants a grant of the application: none was sent, it is not signed by it, or it is for another channel, user or organization.", false;
        GrantExpired = 324, "grant_expired", "The grant has ended, or access was revoked since; get another one from the application.", false;
        UnknownEvent = 330, "unknown_event", "No client event of this name is defined for the channel.", false;
        InvalidData = 331, "invalid_data", "The data of the client event is not what its definition wants; the message names the field.", false;
        EventForbidden = 332, "event_forbidden", "The client event needs a role that you do not have.", false;
        TooManyEvents = 333, "too_many_events", "As many client events of this socket as allowed have no answer yet; wait for some.", true;
        PresenceOff = 340, "presence_off", "The channel has no members; its rule has to say presence => true.", false;
        PresenceFull = 341, "presence_full", "As many are on this channel, or as many connections of this user, as allowed; try again later.", true;
        StateTooLarge = 342, "state_too_large", "The state of a member is larger than allowed; send less.", false;
        NotPresent = 343, "not_present", "This connection is not among the members of the channel; join first.", false;
        TooManySubscriptions = 400, "too_many_subscriptions", "This socket has as many subscriptions, or as large ones, as allowed; unsubscribe some first.", false;
        RateLimited = 401, "rate_limited", "Too many frames in a short time; slow down.", true;
        Overloaded = 402, "overloaded", "The service is at one of its limits; try again later.", true;
        SendLimited = 403, "send_limited", "This socket sends more broadcasts than allowed; slow down.", true;
        RateLimitExceeded = 404, "rate_limit_exceeded", "Rate limit exceeded. Try again later.", true;
        JoinsLimited = 405, "joins_limited", "Too many subscriptions in a short time; slow down. The message says whose.", true;
        BytesLimited = 406, "bytes_limited", "Too many bytes in a short time; slow down. The message says whose.", true;
        ConnectsLimited = 407, "connects_limited", "Too many connections in a short time; the message says whose. Come back later.", true;
        ConnectionsLimited = 408, "connections_limited", "There are as many connections as allowed; the message says whose. Come back later.", true;
        NotReady = 500, "not_ready", "The service is not streaming yet; try again.", true;
        Internal = 501, "internal", "Something failed inside the service; try again, and tell its operator.", true;
    }
}

table! {
    /// Why the service closes a socket: a WebSocket close code.
    CloseCode {
        Restarting = 4000, "restarting", "The service restarts; come back with the last cursor.", true;
        Slow = 4001, "slow", "The socket did not read fast enough; come back with the last cursor.", true;
        PingTimeout = 4002, "ping_timeout", "Nothing was heard from the client for too long; come back with the last cursor.", true;
        Stale = 4003, "stale", "The stream from the database is interrupted; come back with the last cursor.", true;
        Overloaded = 4004, "overloaded", "The service is at one of its limits; come back later.", true;
        TooManyConnections = 4005, "too_many_connections", "There are as many connections as allowed; come back later.", true;
        AuthUnavailable = 4006, "auth_unavailable", "Tokens cannot be checked at the moment; come back later.", true;
        Internal = 4007, "internal", "Something failed inside the service; come back with the last cursor.", true;
        TooFast = 4008, "too_fast", "Too many connections were opened in a short time; come back later.", true;
        UserChanged = 4009, "user_changed", "The socket was shown a token of another user; come back with that.", true;
        AuthTimeout = 4500, "auth_timeout", "No `auth` frame came in time; send it first.", false;
        AuthFailed = 4501, "auth_failed", "The token or API key was refused; get another one first.", false;
        TokenExpired = 4502, "token_expired", "The token expired and was not refreshed; get a new one first.", false;
        KeyRevoked = 4503, "key_revoked", "The API key was revoked; use another one.", false;
        NotMember = 4504, "not_member", "The user is not a member of the organization.", false;
        Protocol = 4505, "protocol", "The client broke the rules of the protocol too often or too badly.", false;
        TooLarge = 4506, "too_large", "A frame was larger than allowed.", false;
        Kicked = 4507, "kicked", "An operator closed the socket.", false;
        KeyExpired = 4508, "key_expired", "The API key has expired; use another one.", false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_close_says_whether_to_come_back() {
        for code in CloseCode::ALL {
            let number = code.number();
            assert!((4000..5000).contains(&number));
            assert_eq!(code.come_back(), number < 4500, "{number}");
            assert_eq!(CloseCode::from_number(number), Some(*code));
            assert!(code.sentence().len() <= 123, "fits a close frame: {number}");
        }
    }

    #[test]
    fn numbers_and_names_are_unique() {
        let mut numbers: Vec<_> = ErrorCode::ALL.iter().map(|c| c.number()).collect();
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|c| c.name()).collect();
        numbers.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }
}
