//! WebSocket close codes the gateway sends (RFC 6455 §7.4.1), and what each asks of a client.

/// A reason for ending a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client closed; echoed back. Final.
    Normal,
    /// The gateway restarts, to a classic client: libraries of that time fail at a code that RFC 6455 does not list.
    GoingAway,
    /// The peer broke the WebSocket protocol. Reconnecting with the same bytes will not help.
    Protocol,
    /// A binary frame: this protocol is JSON text.
    Unsupported,
    /// A text frame that is not UTF-8.
    InvalidText,
    /// A message was begun and not finished in time: the way to the client is bad, or it means no good.
    Unfinished,
    /// The message is larger than the limit in bytes.
    TooBig,
    /// The message comes in more pieces than one may have.
    Fragments,
    /// The gateway restarts, to a modern client: reconnect, after a random delay.
    Restart,
    /// The gateway has no room for what was asked: reconnect, perhaps to another one.
    NoRoom,
}

impl Close {
    /// Every reason, for tables and tests.
    pub const ALL: [Close; 10] = [
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
        }
    }

    /// Whether a client that did not ask to be closed should connect again, with back-off. The others mean that the client
    /// itself is at fault, and would only be closed again. Codes that are not of this list (a proxy's) mean reconnecting.
    pub const fn reconnect(self) -> bool {
        matches!(self, Close::Normal | Close::GoingAway | Close::Unfinished | Close::Restart | Close::NoRoom)
    }
}

#[cfg(test)]
mod tests {
    use super::Close;

    /// The table of PROTOCOL.md.
    #[test]
    fn only_faults_of_the_client_are_final() {
        let last: Vec<u16> = Close::ALL.iter().filter(|close| !close.reconnect()).map(|close| close.code()).collect();
        assert_eq!(last, [1002, 1003, 1007, 1009, 1009]);
    }
}
