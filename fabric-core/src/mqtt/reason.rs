//! MQTT reason codes, and every mapping to them: the only place.

use std::fmt;

use cluster_proto::link::{RefuseReason, UnbindReason};

/// A reason code of MQTT 5 (section 2.4). MQTT 3.1.1 knows a few of them, under other numbers: see
/// [`Reason::connack_v3`] and [`Reason::suback_v3`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Reason(pub u8);

macro_rules! reasons {
    ($($constant:ident = $code:literal, $name:literal;)*) => {
        impl Reason {
            $(#[doc = concat!("`", stringify!($code), "` ", $name, ".")]
            pub const $constant: Self = Self($code);)*

            /// The name the specification gives it.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($code => $name,)*
                    _ => "unknown reason",
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00, "success";
    GRANTED_QOS_1 = 0x01, "granted QoS 1";
    GRANTED_QOS_2 = 0x02, "granted QoS 2";
    DISCONNECT_WITH_WILL = 0x04, "disconnect with will message";
    NO_MATCHING_SUBSCRIBERS = 0x10, "no matching subscribers";
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    CONTINUE_AUTHENTICATION = 0x18, "continue authentication";
    REAUTHENTICATE = 0x19, "re-authenticate";
    UNSPECIFIED_ERROR = 0x80, "unspecified error";
    MALFORMED_PACKET = 0x81, "malformed packet";
    PROTOCOL_ERROR = 0x82, "protocol error";
    IMPLEMENTATION_SPECIFIC = 0x83, "implementation specific error";
    UNSUPPORTED_VERSION = 0x84, "unsupported protocol version";
    CLIENT_ID_NOT_VALID = 0x85, "client identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "bad user name or password";
    NOT_AUTHORIZED = 0x87, "not authorized";
    SERVER_UNAVAILABLE = 0x88, "server unavailable";
    SERVER_BUSY = 0x89, "server busy";
    BANNED = 0x8A, "banned";
    SERVER_SHUTTING_DOWN = 0x8B, "server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8C, "bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8D, "keep alive timeout";
    SESSION_TAKEN_OVER = 0x8E, "session taken over";
    TOPIC_FILTER_INVALID = 0x8F, "topic filter invalid";
    TOPIC_NAME_INVALID = 0x90, "topic name invalid";
    PACKET_ID_IN_USE = 0x91, "packet identifier in use";
    PACKET_ID_NOT_FOUND = 0x92, "packet identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "receive maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "topic alias invalid";
    PACKET_TOO_LARGE = 0x95, "packet too large";
    MESSAGE_RATE_TOO_HIGH = 0x96, "message rate too high";
    QUOTA_EXCEEDED = 0x97, "quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, "administrative action";
    PAYLOAD_FORMAT_INVALID = 0x99, "payload format invalid";
    RETAIN_NOT_SUPPORTED = 0x9A, "retain not supported";
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
    USE_ANOTHER_SERVER = 0x9C, "use another server";
    SERVER_MOVED = 0x9D, "server moved";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "shared subscriptions not supported";
    CONNECTION_RATE_EXCEEDED = 0x9F, "connection rate exceeded";
    MAXIMUM_CONNECT_TIME = 0xA0, "maximum connect time";
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1, "subscription identifiers not supported";
    WILDCARDS_NOT_SUPPORTED = 0xA2, "wildcard subscriptions not supported";
}

impl Reason {
    /// Whether it says that something failed.
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether it says that a packet is not what it must be, whoever sent it.
    pub fn is_about_the_packet(self) -> bool {
        matches!(
            self,
            Self::MALFORMED_PACKET
                | Self::PROTOCOL_ERROR
                | Self::TOPIC_NAME_INVALID
                | Self::PACKET_TOO_LARGE
                | Self::PAYLOAD_FORMAT_INVALID
        )
    }

    /// The return code of CONNACK in MQTT 3.1 and 3.1.1 (table 3.1).
    pub fn connack_v3(self) -> u8 {
        match self {
            Self::SUCCESS => 0,
            Self::UNSUPPORTED_VERSION => 1,
            Self::CLIENT_ID_NOT_VALID => 2,
            Self::BAD_USER_NAME_OR_PASSWORD => 4,
            Self::NOT_AUTHORIZED | Self::BANNED => 5,
            _ => 3,
        }
    }

    /// The return code of SUBACK in MQTT 3.1 and 3.1.1: the granted QoS or failure ([MQTT-3.9.3-2]).
    pub fn suback_v3(self) -> u8 {
        self.0.min(0x80)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X} {}", self.0, self.name())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a connection ended or has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The terminal sent DISCONNECT.
    Disconnected,
    /// The network connection ended without DISCONNECT.
    ConnectionLost,
    /// No CONNECT in time; nothing is answered.
    ConnectTimeout,
    /// CONNECT was refused, for this.
    Refused(Reason),
    /// The terminal broke the protocol or a limit.
    Peer(Reason),
    /// Nothing heard for one and a half times the keep alive ([MQTT-3.1.2-22]).
    KeepAliveTimeout,
    /// Its credential expired while it was connected. 0x87: the spec has no code of its own.
    CredentialExpired,
    /// The leader ended the binding.
    Unbound(UnbindReason),
    /// This edge is going down.
    ServerShuttingDown,
    /// The edge has no leader any more and sends its terminals elsewhere.
    ServerUnavailable,
    /// The connection could not keep up with what it must be told (its output is over the bound).
    TooSlow,
    /// This edge sends its terminals elsewhere for now.
    UseAnotherServer,
    /// This edge is gone for good.
    ServerMoved,
}

impl CloseCause {
    /// What MQTT 5 DISCONNECT says; `None`: nothing is sent.
    pub fn disconnect_reason(self) -> Option<Reason> {
        match self {
            Self::Disconnected | Self::ConnectionLost | Self::ConnectTimeout | Self::Refused(_) => None,
            Self::Peer(reason) => Some(reason),
            Self::KeepAliveTimeout => Some(Reason::KEEP_ALIVE_TIMEOUT),
            Self::CredentialExpired | Self::Unbound(UnbindReason::Revoked) => Some(Reason::NOT_AUTHORIZED),
            Self::Unbound(UnbindReason::TakenOver) => Some(Reason::SESSION_TAKEN_OVER),
            Self::Unbound(UnbindReason::Kicked | UnbindReason::Deleted) => {
                Some(Reason::ADMINISTRATIVE_ACTION)
            }
            Self::ServerShuttingDown => Some(Reason::SERVER_SHUTTING_DOWN),
            Self::ServerUnavailable => Some(Reason::SERVER_BUSY),
            Self::TooSlow => Some(Reason::QUOTA_EXCEEDED),
            Self::UseAnotherServer => Some(Reason::USE_ANOTHER_SERVER),
            Self::ServerMoved => Some(Reason::SERVER_MOVED),
        }
    }

    /// What CONNACK says when this happens before it was sent; `None`: nothing is sent.
    pub fn connack_reason(self) -> Option<Reason> {
        match self {
            Self::Disconnected | Self::ConnectionLost | Self::ConnectTimeout => None,
            Self::Refused(reason) | Self::Peer(reason) => Some(reason),
            Self::CredentialExpired | Self::Unbound(UnbindReason::Revoked | UnbindReason::Deleted) => {
                Some(Reason::NOT_AUTHORIZED)
            }
            Self::Unbound(UnbindReason::Kicked) => Some(Reason::BANNED),
            Self::UseAnotherServer => Some(Reason::USE_ANOTHER_SERVER),
            Self::ServerMoved => Some(Reason::SERVER_MOVED),
            Self::KeepAliveTimeout
            | Self::Unbound(UnbindReason::TakenOver)
            | Self::ServerShuttingDown
            | Self::ServerUnavailable
            | Self::TooSlow => Some(Reason::SERVER_UNAVAILABLE),
        }
    }
}

/// Why a CONNECT is refused before the leader is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthRefusal {
    /// No credential, or one that cannot be verified.
    BadCredential,
    /// A genuine credential that does not allow this: expired, revoked, for another terminal or app.
    NotAuthorized,
    /// The edge may not accept terminals now: no lease, or draining.
    Unavailable,
    /// Too much is being connected at once.
    Busy,
}

impl AuthRefusal {
    /// What CONNACK says.
    pub fn reason(self) -> Reason {
        match self {
            Self::BadCredential => Reason::BAD_USER_NAME_OR_PASSWORD,
            Self::NotAuthorized => Reason::NOT_AUTHORIZED,
            Self::Unavailable => Reason::SERVER_UNAVAILABLE,
            Self::Busy => Reason::SERVER_BUSY,
        }
    }
}

/// What CONNACK says when the leader refuses a binding.
pub fn refused_bind(refused: RefuseReason) -> Reason {
    match refused {
        RefuseReason::NotAuthorized => Reason::NOT_AUTHORIZED,
        RefuseReason::Quota => Reason::QUOTA_EXCEEDED,
        RefuseReason::Stale | RefuseReason::Unavailable => Reason::SERVER_UNAVAILABLE,
    }
}

/// What DISCONNECT says when a fresh credential is refused: it has fewer codes than CONNACK.
pub fn refused_reauthentication(refused: AuthRefusal) -> Reason {
    match refused {
        AuthRefusal::BadCredential | AuthRefusal::NotAuthorized => Reason::NOT_AUTHORIZED,
        AuthRefusal::Unavailable | AuthRefusal::Busy => Reason::SERVER_BUSY,
    }
}

/// What SUBACK, UNSUBACK, PUBACK and PUBREC say when the leader refuses.
pub fn refused_request(refused: RefuseReason) -> Reason {
    match refused {
        RefuseReason::NotAuthorized => Reason::NOT_AUTHORIZED,
        RefuseReason::Quota => Reason::QUOTA_EXCEEDED,
        RefuseReason::Stale | RefuseReason::Unavailable => Reason::IMPLEMENTATION_SPECIFIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_codes_of_older_versions_follow_their_tables() {
        assert_eq!(Reason::UNSUPPORTED_VERSION.connack_v3(), 1);
        assert_eq!(Reason::BAD_USER_NAME_OR_PASSWORD.connack_v3(), 4);
        assert_eq!(Reason::IMPLEMENTATION_SPECIFIC.connack_v3(), 3);
        assert_eq!(Reason::GRANTED_QOS_1.suback_v3(), 1);
        assert_eq!(Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED.suback_v3(), 0x80);
    }
}
