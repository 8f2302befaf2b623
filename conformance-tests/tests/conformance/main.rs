//! MQTT 3.1.1 and 5.0, clause by clause, against one `carillon dev --anonymous`.
//!
//! A test's name is its claim; the clauses stand above it (of 5.0, or of 3.1.1 where that is said). Tests share the
//! server: each uses client ids and topics of its own. Every packet that comes is read strictly
//! (`conformance_tests::packet`), so that each test also checks what a server must never send.

mod auth;
mod connect;
mod disconnect;
mod flow_control;
mod malformed;
mod permissions;
mod properties;
mod publish;
mod qos2;
mod retained;
mod session;
mod shared;
mod subscribe;
mod topics;
mod unsubscribe;
mod utf8;
mod websocket;
mod will;

/// What the chapters are written with.
mod prelude {
    use std::sync::LazyLock;
    pub(crate) use std::time::{Duration, Instant};

    pub(crate) use conformance_tests::{
        BOTH, V5, V311, Version,
        build::{self, Connect, Publish, Will},
        client::Client,
        packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Packet},
        property::{self, Properties, id},
        server::{credential, credential_with, mqtt},
        unique,
    };

    /// No Local.
    pub(crate) const NO_LOCAL: u8 = 0x04;
    /// Retain As Published.
    pub(crate) const AS_PUBLISHED: u8 = 0x08;
    /// Retain Handling 1.
    pub(crate) const ONLY_NEW: u8 = 0x10;
    /// Retain Handling 2.
    pub(crate) const NO_RETAINED: u8 = 0x20;

    /// A clean session.
    pub(crate) fn open(version: Version) -> Client {
        Client::open(mqtt(), version)
    }

    /// A session that lasts, with nothing in it.
    pub(crate) fn lasting(version: Version) -> Client {
        Client::open_with(mqtt(), &Connect::new(version, &unique("lasting")).resume()).0
    }

    /// Subscribes to a topic that has a retained message and takes what comes before it: everything that subscriptions
    /// made earlier had to get from what is retained.
    pub(crate) fn until_retained_fence(client: &mut Client) -> Vec<conformance_tests::packet::Publish> {
        static FENCE: LazyLock<String> = LazyLock::new(|| {
            let topic = unique("retained-fence");
            open(V311).retain(&topic, "retained fence", 1);
            topic
        });
        let packet = client.fresh();
        client.send(&build::subscribe(client.version, packet, &[(&FENCE, 1)], &[]));
        client.until("retained fence")
    }

    /// The same client again; it must find its session.
    pub(crate) fn resume(version: Version, id: &str) -> Client {
        let (client, connack) = Client::open_with(mqtt(), &Connect::new(version, id).resume());
        assert!(connack.session_present, "the session of {id} is there");
        client
    }
}
