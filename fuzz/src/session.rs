//! Conversations with the session machine, chosen by bytes.
//!
//! The model, and what a conversation is made of, are those of the random test. The bytes of the fuzzer choose its inputs
//! one by one, so that a changed byte changes one of them and coverage leads to conversations that chance does not find.

use arbitrary::{Result, Unstructured};

#[path = "../../fabric-core/tests/session/random.rs"]
#[allow(dead_code, reason = "the random test itself is not built here")]
mod random;
#[path = "../../fabric-core/tests/session/support.rs"]
#[allow(dead_code, unused_imports, reason = "words of scripted tests")]
mod support;

use fabric_core::mqtt::packet::Codes;
use random::{Conversation, Input};
use support::*;

const INPUTS_MAX: usize = 400;

/// The conversation that `data` stands for.
pub fn check(data: &[u8]) {
    if let Ok(conversation) = conversation(&mut Unstructured::new(data)) {
        conversation.hold();
    }
}

fn conversation(u: &mut Unstructured) -> Result<Conversation> {
    let (connect, opened) = (connect_of(u)?, !u.ratio(1, 16)?);
    let mut inputs = Vec::new();
    while !u.is_empty() && inputs.len() < INPUTS_MAX {
        inputs.push(input(u)?);
    }
    Ok(Conversation { connect, opened, inputs })
}

fn connect_of(u: &mut Unstructured) -> Result<Connect> {
    let version = *u.choose(&[V31, V311, V5])?;
    let mut connect = Connect { clean_start: u.arbitrary()?, ..connect(version) };
    if u.ratio(1, 8)? {
        connect.client_id.clear();
    }
    connect.properties.receive_maximum = maybe(u, |u| u.int_in_range(1..=5))?;
    connect.properties.packet_len_max = maybe(u, |u| u.int_in_range(10..=60))?;
    Ok(connect)
}

fn maybe<T>(u: &mut Unstructured, of: impl FnOnce(&mut Unstructured) -> Result<T>) -> Result<Option<T>> {
    if u.arbitrary()? { of(u).map(Some) } else { Ok(None) }
}

fn input(u: &mut Unstructured) -> Result<Input> {
    Ok(match u.int_in_range(0..=31)? {
        0..=7 => Input::Packet(packet(u)?),
        8..=12 => Input::Answered(u.int_in_range(0..=7)?, if u.ratio(1, 9)? { 0x97 } else { 0 }),
        13 => Input::Authenticated(u.arbitrary()?),
        14 => Input::Bound(u.arbitrary()?),
        15..=18 => Input::Answer(u.int_in_range(0..=7)?, !u.ratio(1, 16)?),
        19..=22 => Input::Push {
            qos: qos(u)?,
            urgent: u.ratio(1, 3)?,
            missing: u.ratio(1, 10)?,
            ttl_ms: maybe(u, |u| u.int_in_range(0..=2_000))?,
            more: if u.ratio(1, 20)? { u.arbitrary()? } else { 0 },
        },
        23 => Input::Owed { count: u.int_in_range(0..=80)?, live: u.arbitrary()? },
        24 => Input::Payload { back: u.int_in_range(0..=20)?, gone: u.arbitrary()? },
        25 => Input::Withdraw { back: u.int_in_range(0..=20)? },
        26 => Input::Show,
        27 => Input::Room(*u.choose(&[0, 50, ROOM])?),
        28 => Input::Tick(u.int_in_range(0..=1_000)?),
        29 => Input::LinkLost,
        30 => Input::LinkReady,
        // What ends a conversation is rare.
        _ => match u.int_in_range(0..=15)? {
            0 => Input::Unbind,
            1 => Input::Lost,
            _ => Input::Show,
        },
    })
}

fn qos(u: &mut Unstructured) -> Result<Qos> {
    u.choose(&[QOS0, QOS1, QOS2]).copied()
}

fn packet(u: &mut Unstructured) -> Result<Packet> {
    Ok(match u.int_in_range(0..=31)? {
        0..=13 => {
            let topic = if u.ratio(1, 32)? { *u.choose(&["", "a/#", "$SYS/x"])? } else { "a/b" };
            let qos = qos(u)?;
            let packet_id = if qos == QOS0 { 0 } else { u.int_in_range(1..=200)? };
            let topic_alias = if u.ratio(1, 200)? { Some(1) } else { None };
            let (dup, retain) = (u.arbitrary()?, u.ratio(1, 50)?);
            Packet::Publish(Box::new(Publish { dup, retain, topic_alias, ..publish(qos, packet_id, topic) }))
        }
        14..=18 => {
            let filters = some(u, |u| Ok((filter(u)?, qos(u)?)))?;
            subscribe(u.int_in_range(1..=5)?, &filters)
        }
        19..=20 => unsubscribe(u.int_in_range(1..=5)?, &some(u, filter)?),
        21..=22 => Packet::PingReq,
        23 => Packet::PubAck(ack(u, 5)?),
        24 => Packet::PubRec(ack(u, 5)?),
        25 => Packet::PubComp(ack(u, 5)?),
        26..=29 => Packet::PubRel(Ack { reason: Reason::SUCCESS, ..ack(u, 200)? }),
        30 => match u.int_in_range(0..=15)? {
            0 => Packet::Connect(Box::new(connect_of(u)?)),
            1 => {
                let session_expiry_s = maybe(u, |u| u.int_in_range(0..=8))?;
                Packet::Disconnect(Box::new(Disconnect { session_expiry_s, ..Disconnect::default() }))
            }
            _ => Packet::PingReq,
        },
        _ => match u.int_in_range(0..=31)? {
            0 => Packet::PingResp,
            1 => Packet::Auth(Box::default()),
            2 => Packet::ConnAck(Box::default()),
            3 => Packet::SubAck(Codes { packet_id: 1, codes: Vec::new() }),
            _ => Packet::PingReq,
        },
    })
}

fn filter(u: &mut Unstructured) -> Result<&'static str> {
    u.choose(&["a/+", "#", "a/#/b", "$share/g/a", "b"]).copied()
}

fn ack(u: &mut Unstructured, packet_id_max: u16) -> Result<Ack> {
    let reason = if u.arbitrary()? { Reason::QUOTA_EXCEEDED } else { Reason::SUCCESS };
    Ok(Ack { packet_id: u.int_in_range(1..=packet_id_max)?, reason })
}

fn some<T>(u: &mut Unstructured, mut of: impl FnMut(&mut Unstructured) -> Result<T>) -> Result<Vec<T>> {
    let count = u.int_in_range(1..=3)?;
    (0..count).map(|_| of(u)).collect()
}
