//! WebSocket close codes the gateway sends (RFC 6455 §7.4.1), and what each asks of a client.

/// A reason for ending a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client has closed; this answers its close frame. Final.
    Normal,
    /// The gateway restarts; sent to a classic client. Its library may be older than 1012, and fail at a code that RFC
    /// 6455 does not list.
    GoingAway,
    /// The peer broke the WebSocket protocol; it would do so again after reconnecting.
    Protocol,
    /// The client sent a binary frame; this protocol is JSON text.
    Unsupported,
    /// The client sent a text frame that is not UTF-8.
    InvalidText,
    /// A message was begun and not completed in time: the network is bad, or the client is hostile.
    Unfinished,
    /// The message is larger than the limit in bytes.
    TooBig,
    /// The message has more fragments than a message may have.
    Fragments,
    /// The gateway restarts; sent to a modern client, which reconnects after a random delay.
    Restart,
    /// The gateway has no memory left for the request. The client should reconnect, perhaps to another gateway.
    NoRoom,
    /// The session's token has expired. The client should reconnect with a new one.
    TokenExpired,
    /// The client has shown no valid token in time. It should reconnect with one.
    TokenNeeded,
    /// The token was taken away while the session ran. Final for this token.
    TokenRevoked,
}

impl Close {
    /// Every reason, for tables and tests.
    pub const ALL: [Close; 13] = [
        Close::Normal,
        Close::GoingAway,
        Close::Protocol,
        Close::Unsupported,
        Close::InvalidText,
        Close::Unfinished,
        Close::TooBig,
        Close::Fragments,
        Close::Restart,
        Close::NoRoom,
        Close::TokenExpired,
        Close::TokenNeeded,
        Close::TokenRevoked,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Close::Normal => 1000,
            Close::GoingAway => 1001,
            Close::Protocol => 1002,
            Close::Unsupported => 1003,
            Close::InvalidText => 1007,
            Close::Unfinished => 1008,
            Close::TooBig | Close::Fragments => 1009,
            Close::Restart => 1012,
            Close::NoRoom => 1013,
            Close::TokenExpired | Close::TokenNeeded => 4401,
            Close::TokenRevoked => 4403,
        }
    }

    /// The reason text on the wire: what to do next, at most 123 bytes (RFC 6455 §5.5).
    pub const fn reason(self) -> &'static str {
        match self {
            Close::Normal => "",
            Close::Protocol => "WebSocket protocol error",
            Close::Unsupported => "send JSON text frames, not binary ones",
            Close::InvalidText => "text is not UTF-8",
            Close::Unfinished => "message not finished in time; reconnect, and send it in one go",
            Close::TooBig => "message too big; split the command",
            Close::Fragments => "message in too many pieces; send it in one frame",
            Close::NoRoom => "this gateway has no room for more; try again later",
            Close::GoingAway | Close::Restart => "gateway restarts; reconnect",
            Close::TokenExpired => "token expired; reconnect with a new one",
            Close::TokenNeeded => "a token is needed",
            Close::TokenRevoked => "this token was taken away",
        }
    }

    /// Whether a client that did not close the connection itself should connect again, with back-off. With the other
    /// codes the client itself is at fault, and would only be closed again. A code that is not in this list comes from
    /// a proxy, and means reconnecting. Where the code is about the token, reconnecting needs a new one.
    pub const fn reconnect(self) -> bool {
        matches!(
            self,
            Close::Normal
                | Close::GoingAway
                | Close::Unfinished
                | Close::Restart
                | Close::NoRoom
                | Close::TokenExpired
                | Close::TokenNeeded
        )
    }
}

/// Whether a close frame may hold this code (RFC 6455 §7.4, and the registry of IANA that it began): the others are
/// reserved, or stand for what no frame says (1005, 1006, 1015).
pub const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::{Close, may_be_sent};

    #[test]
    fn what_is_sent_may_be_sent() {
        for close in Close::ALL {
            assert!(may_be_sent(close.code()), "{close:?}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert!(!may_be_sent(code), "{code}");
        }
    }

    /// The table of PROTOCOL.md.
    #[test]
    fn only_faults_of_the_client_are_final() {
        let last: Vec<u16> = Close::ALL.iter().filter(|close| !close.reconnect()).map(|close| close.code()).collect();
        assert_eq!(last, [1002, 1003, 1007, 1009, 1009, 4403]);
    }
}
