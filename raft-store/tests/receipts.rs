//! The receipt stream: what it tells, put together, is how every push stands; and it says where it begins.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster_proto::{
    AppId, Audience, Outcome, PushId, PushKind, State, TerminalNo, TerminalSet, link::Receipt,
};
use raft_store::{
    Applied, Command, CommandBatch, CommandBody, Refusal,
    command::Webhook,
    receipts::{PageLimits, ReceiptCursor, ReceiptDelta, ReceiptKind, ReceiptRow},
    tables::{self, EntryPosition, Tables, TablesOptions},
};
use rand::Rng as _;
use roaring::RoaringBitmap;
use world::{Generator, id, store::Store};

const APP: AppId = AppId::DEFAULT;
const ALL: PageLimits = PageLimits { rows: usize::MAX, bytes: usize::MAX };

/// What a consumer knows that unites what it is told.
#[derive(Default)]
struct Consumer {
    accepted: BTreeMap<PushId, u64>,
    sets: BTreeMap<(PushId, ReceiptKind), RoaringBitmap>,
    coalesced: usize,
    deltas: usize,
    last_index: u64,
}

impl Consumer {
    fn take(&mut self, row: &ReceiptRow) {
        self.coalesced += usize::from(row.is_coalesced);
        self.deltas += usize::from(!row.is_coalesced);
        for ReceiptDelta { push, kind, len, set } in &row.deltas {
            if *kind == ReceiptKind::Accepted {
                self.accepted.insert(*push, *len);
                continue;
            }
            let set = RoaringBitmap::deserialize_from(&set[..]).unwrap();
            assert_eq!(set.len(), *len);
            *self.sets.entry((*push, *kind)).or_default() |= set;
        }
    }

    fn in_state(&self, push: PushId, state: State) -> RoaringBitmap {
        let of = |state| self.sets.get(&(push, ReceiptKind::State(state))).cloned().unwrap_or_default();
        match state {
            // Delivered wins.
            State::Sent => of(State::Sent) - of(State::Delivered),
            state => of(state),
        }
    }

    fn agrees(&self, tables: &Tables) {
        for push in (1..=tables.applied().last_push.0).map(PushId) {
            let Some(counts) = tables.counts(push) else { continue };
            assert_eq!(self.accepted.get(&push), Some(&counts.audience), "{push}");
            for state in State::ALL.into_iter().filter(|state| *state != State::Pending) {
                assert_eq!(
                    self.in_state(push, state),
                    tables.targets(push, state).unwrap().0,
                    "{push} {state:?}"
                );
            }
        }
    }

    /// Everything from a place, in pages; answers where to go on.
    fn read(&mut self, tables: &Tables, mut from: ReceiptCursor, limits: PageLimits) -> ReceiptCursor {
        loop {
            let page = tables.receipts(from, limits);
            for row in &page.rows {
                assert!(row.index >= self.last_index || row.is_coalesced);
                self.last_index = row.index;
                assert_eq!(row.place.to_string().parse(), Ok(row.place));
                self.take(row);
            }
            from = page.next;
            if page.is_end {
                return from;
            }
        }
    }
}

/// One consumer follows; one comes back now and then, to find that much was removed; both know how every push stands.
#[test]
fn the_union_of_what_is_told_is_how_every_push_stands() {
    for (seed, cache_bytes) in [(11, 1 << 20), (12, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let options = TablesOptions { owed_per_terminal_max: 6, cache_bytes, ..TablesOptions::default() };
        let (tables, mut machine) = tables::open(directory.path(), options).unwrap();
        let mut generator = Generator::new(seed, tables.clone());
        let (mut follows, mut returns) = (Consumer::default(), Consumer::default());
        let mut at = [tables.receipts_begin(APP); 2];
        machine.apply(vec![generator.world()], None, &mut Vec::new()).unwrap();
        for step in 0..300 {
            let entries = (0..generator.rng.random_range(1..4)).map(|_| generator.entry()).collect();
            machine.apply(entries, None, &mut Vec::new()).unwrap();
            at[0] = follows.read(&tables, at[0], ALL);
            if step % 10 == 0 {
                follows.agrees(&tables);
            }
            if step % 100 == 99 {
                let (EntryPosition { term, index }, at_ms) =
                    (machine.applied_position(), tables.applied().at_ms);
                let bytes_max = generator.rng.random_range(100..1_000);
                let body = CommandBody::PurgeReceipts { before_ms: at_ms / 2, bytes_max, limit: 10_000 };
                let batch = CommandBatch { at_ms, commands: vec![Command::own(body)] };
                generator.skip_entry();
                let position = EntryPosition { term, index: index + 1 };
                machine.apply(vec![(position, Some(batch))], None, &mut Vec::new()).unwrap();
            }
            if step % 20 == 15 || step % 100 == 99 {
                let limits = PageLimits { rows: generator.rng.random_range(1..9), bytes: 400 };
                at[1] = returns.read(&tables, at[1], limits);
                returns.agrees(&tables);
            }
        }
        println!("{} and {} deltas, {} coalesced", follows.deltas, returns.deltas, returns.coalesced);
        assert!(follows.deltas > 150 && returns.coalesced > 20 && returns.deltas > 5);
        assert_eq!(tables.failure(), None);
    }
}

/// The pages in between may be read while the tables change.
#[test]
fn coalesced_pages_and_the_deltas_after_them_miss_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, mut machine) = tables::open(directory.path(), TablesOptions::default()).unwrap();
    let mut generator = Generator::new(21, tables.clone());
    machine.apply(vec![generator.world()], None, &mut Vec::new()).unwrap();
    for _ in 0..150 {
        machine.apply(vec![generator.entry()], None, &mut Vec::new()).unwrap();
    }
    let too_old = tables.receipts_begin(APP);
    let mut consumer = Consumer::default();
    let mut from = too_old;
    let mut removed = false;
    for step in 0..400 {
        let mut entry = generator.entry();
        if let (false, Some(batch)) = (removed, &mut entry.1) {
            let body = CommandBody::PurgeReceipts { before_ms: batch.at_ms, bytes_max: 0, limit: 90 };
            batch.commands.push(Command::own(body));
            removed = true;
        }
        machine.apply(vec![entry], None, &mut Vec::new()).unwrap();
        if step > 5 {
            let page = tables.receipts(from, PageLimits { rows: 1, bytes: 1 });
            page.rows.iter().for_each(|row| consumer.take(row));
            from = page.next;
        }
    }
    consumer.read(&tables, from, ALL);
    consumer.agrees(&tables);
    assert!(consumer.coalesced > 20 && consumer.deltas > 20);
}

#[test]
fn an_entry_makes_one_delta_per_push_and_state_whatever_its_commands() {
    let mut store = Store::new();
    store.register(200);
    let small = store.push(PushKind::Identity, Audience::Terminals((0..4).map(id).collect()));
    let broad = store.push(PushKind::Identity, Audience::All);
    let from = store.tables.receipts_end(APP);
    let receipt = |push, nos: std::ops::Range<u32>, outcome| {
        let terminals: TerminalSet = nos.map(TerminalNo).collect();
        let items = vec![Receipt { push, outcome, terminals }];
        Command::own(CommandBody::RecordReceipts { items, steps: Vec::new() })
    };
    store.entry(vec![
        receipt(small, 1..3, Outcome::Sent),
        receipt(broad, 1..50, Outcome::Delivered),
        receipt(broad, 40..60, Outcome::Delivered),
        receipt(small, 2..4, Outcome::Delivered),
    ]);
    // Nothing new: no row.
    store.entry(vec![receipt(broad, 1..60, Outcome::Sent)]);
    let page = store.tables.receipts(from, ALL);
    assert_eq!((page.rows.len(), page.is_end, page.began_at), (1, true, 0));
    let told: Vec<_> = page.rows[0].deltas.iter().map(|delta| (delta.push, delta.kind, delta.len)).collect();
    let (delivered, sent) = (ReceiptKind::State(State::Delivered), ReceiptKind::State(State::Sent));
    assert_eq!(told, [(small, delivered, 2), (small, sent, 2), (broad, delivered, 59)]);
}

#[test]
fn a_large_entry_is_told_in_parts_that_stay_small() {
    let mut store = Store::new();
    store.register(400);
    let pushes: Vec<_> = (0..500).map(|_| store.push(PushKind::Identity, Audience::All)).collect();
    let from = store.tables.receipts_end(APP);
    let items = pushes.iter().map(|push| Receipt {
        push: *push,
        outcome: Outcome::Delivered,
        terminals: (1..=400).map(TerminalNo).collect(),
    });
    store.apply(CommandBody::RecordReceipts { items: items.collect(), steps: Vec::new() });
    let mut consumer = Consumer::default();
    let page = store.tables.receipts(from, PageLimits { rows: 1, bytes: 1 });
    assert!(!page.is_end && page.rows.len() == 1);
    let rows = store.tables.receipts(from, ALL).rows;
    assert!(rows.len() > 1 && rows.iter().all(|row| row.index == rows[0].index), "{}", rows.len());
    rows.iter().for_each(|row| consumer.take(row));
    consumer.read(&store.tables, store.tables.receipts_begin(APP), ALL);
    consumer.agrees(&store.tables);
}

#[test]
fn deltas_too_old_or_too_many_go_in_bounded_steps_and_the_stream_says_where_it_begins() {
    let mut store = Store::new();
    store.register(10);
    for _ in 0..10 {
        store.at_ms += 1_000;
        store.push(PushKind::Identity, Audience::Terminals(vec![id(1)]));
    }
    let begin = store.tables.receipts_begin(APP);
    let all = store.tables.receipts(begin, ALL);
    assert_eq!((all.rows.len(), all.began_at, store.tables.receipts_kept().0), (10, 0, 10));
    let before_ms = all.rows[5].at_ms;
    assert!(store.tables.receipts_due(before_ms, u64::MAX));
    assert!(!store.tables.receipts_due(all.rows[0].at_ms, u64::MAX));
    let mut purge = |bytes_max, before_ms, limit| {
        store.apply(CommandBody::PurgeReceipts { before_ms, bytes_max, limit });
        let page = store.tables.receipts(store.tables.receipts_begin(APP), ALL);
        (page.rows.len(), page.began_at)
    };
    assert_eq!(purge(u64::MAX, before_ms, 2), (8, all.rows[1].index + 1));
    assert_eq!(purge(u64::MAX, before_ms, 9), (5, all.rows[4].index + 1));
    assert_eq!(purge(u64::MAX, before_ms, 9), (5, all.rows[4].index + 1));
    // By size: what is left fits.
    let bytes = store.tables.receipts_kept().1;
    assert!(store.tables.receipts_due(0, bytes - 1) && !store.tables.receipts_due(0, bytes));
    store.apply(CommandBody::PurgeReceipts { before_ms: 0, bytes_max: bytes / 2, limit: 99 });
    let (rows, kept) = store.tables.receipts_kept();
    assert!((1..5).contains(&rows) && kept <= bytes / 2);
    // A place behind what was removed is told of every push; one of what is kept is not.
    let page = store.tables.receipts(begin, ALL);
    assert!(page.rows.iter().all(|row| row.is_coalesced) && page.rows.len() == 10);
    let last = store.tables.receipts(all.rows[8].next, ALL);
    assert!(last.rows.len() == 1 && !last.rows[0].is_coalesced);
    store.apply(CommandBody::PurgeReceipts { before_ms: u64::MAX, bytes_max: 0, limit: 99 });
    assert_eq!(store.tables.receipts_kept(), (0, 0));
    // Whoever has heard everything has missed nothing.
    let end = store.tables.receipts(all.next, ALL);
    assert!(end.rows.is_empty() && end.is_end && end.began_at == all.rows[9].index + 1);
}

#[test]
fn a_purge_of_one_app_leaves_the_others_stream() {
    let mut store = Store::new();
    assert_eq!(store.apply(CommandBody::CreateApp { name: "shop".into() }), Applied::App(AppId(2)));
    store.register(3);
    store.push(PushKind::Identity, Audience::Terminals(vec![id(1)]));
    let shop = store.tables.receipts(store.tables.receipts_begin(AppId(2)), ALL);
    assert!(shop.rows.is_empty() && shop.is_end);
}

#[test]
fn a_webhook_keeps_its_secret_and_its_place_until_it_is_told_otherwise() {
    let mut store = Store::new();
    let hook = |url: &str, secret: &'static [u8]| Webhook {
        url: url.to_owned(),
        secret: Bytes::from_static(secret),
        expand: false,
        kinds: Vec::new(),
    };
    let set = |webhook, from| CommandBody::SetWebhook { app: APP, webhook, from };
    assert_eq!(store.apply(set(hook("a", b""), None)), Applied::Refused(Refusal::NoWebhook));
    assert_eq!(store.apply(set(hook("a", b"s"), None)), Applied::Done);
    let first = store.tables.webhook(APP).unwrap();
    assert_eq!(first.place, store.tables.receipts_end(APP), "it begins with what comes");
    let (generation, place) = (first.generation, store.tables.receipts_begin(APP));
    let advance = |generation, is_gone| CommandBody::AdvanceWebhook { app: APP, generation, place, is_gone };
    store.apply(advance(generation + 1, true));
    assert_eq!(store.tables.webhook(APP).unwrap(), first, "of another setting");
    store.apply(advance(generation, true));
    assert_eq!(store.tables.webhook(APP).unwrap().place, place);
    assert!(store.tables.webhooks().is_empty(), "it is gone");
    store.apply(set(hook("b", b""), None));
    let second = store.tables.webhook(APP).unwrap();
    assert_eq!((second.webhook.url.as_str(), &second.webhook.secret[..]), ("b", &b"s"[..]));
    assert_eq!(second.place, place);
    assert_eq!(store.tables.webhooks(), [(APP, second.generation)]);
    assert!(!format!("{:?}", hook("a", b"tell-nobody")).contains("tell"));
    store.apply(CommandBody::RemoveWebhook { app: APP });
    assert!(store.tables.webhook(APP).is_none() && store.tables.webhooks().is_empty());
}
