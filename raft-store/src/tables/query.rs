//! Reads of the committed tables. Each sees one position; each is bounded by its `limit` or by what it answers.
//!
//! They do not answer with errors: a failed read of the local database leaves a node that must end, which
//! [`Tables::failure`] says; what is answered until then is empty.

use std::{collections::BTreeMap, sync::Arc};

use cluster_proto::{
    AppId, AppReceipt, Audience, Incarnation, Message, NodeId, PushId, Qos, State, TerminalId, TerminalNo,
    TerminalSet,
    credential::PublicKey,
    link::{After, Lane, Origin, Outbound, RetainedMessage, Subscription},
};

use super::{
    LANES, Tables, View, apps,
    collapse::{self, ToCollapse},
    db::{Read as _, Snapshot, read},
    digest,
    error::StoreError,
    exchanges, groups, keys, lock, owed,
    push::PushSets,
    receipts,
    records::{
        AppRecord, Counts, OwedRow, PushRecord, ReleaseRecord, RetainedPage, SessionRecord, TerminalRecord,
        WebhookRecord,
    },
    refusals,
    release::{self, Waves},
    resolve::{self, About},
    retained, seen, subscriptions,
    value::{
        AppRow, CollapseRow, EdgeRow, Labels, PushRow, ReceiptCount, SessionRow, Stored as _, TerminalRow,
        WebhookRow,
    },
};
use crate::{
    Refusal,
    command::{Quotas, SigningKey},
    effect::AcceptedPush,
    receipts::{PageLimits, ReceiptCursor, ReceiptPage},
};

/// A search costs about as much as so many steps.
const ROWS_PASSED_MAX: usize = 12;

impl Tables {
    /// The app of a name.
    pub fn app_by_name(&self, name: &str) -> Option<AppId> {
        self.ask(|view| apps::by_name(view, name))
    }

    /// All apps, by number.
    pub fn apps(&self) -> Vec<(AppId, String)> {
        let live = self.app_rows().into_iter().filter(|(_, row)| row.removal.is_none());
        live.map(|(app, row)| (app, row.name)).collect()
    }

    /// How much an app has, and how much it may have.
    pub fn app_record(&self, app: AppId) -> Option<AppRecord> {
        self.ask(|view| {
            let Some(row) = apps::find(view, app)? else { return Ok(None) };
            let (count, retained) = (apps::count(view, app)?, retained::count(view, app)?);
            let stored_bytes = count.bytes + retained.bytes;
            Ok(Some(AppRecord { quotas: row.quotas, terminals: count.terminals, stored_bytes }))
        })
    }

    /// How much an app may have.
    pub fn quotas_of(&self, app: AppId) -> Quotas {
        self.ask(|view| Ok(apps::find(view, app)?.map(|row| row.quotas).unwrap_or_default()))
    }

    /// How much each app may have, of those that have a quota at all.
    pub fn quotas(&self) -> BTreeMap<AppId, Quotas> {
        let rows = self.app_rows().into_iter();
        rows.map(|(app, row)| (app, row.quotas)).filter(|(_, quotas)| *quotas != Quotas::default()).collect()
    }

    /// The apps that are deleted and not wholly removed.
    pub fn apps_being_removed(&self) -> Vec<AppId> {
        let rows = self.app_rows().into_iter();
        rows.filter(|(_, row)| row.removal.is_some()).map(|(app, _)| app).collect()
    }

    fn app_rows(&self) -> Vec<(AppId, AppRow)> {
        self.ask(|view| {
            let mut apps = Vec::new();
            view.scan_prefix(&keys::apps(), &mut |key, bytes| {
                let app = keys::app_of(key).ok_or_else(|| StoreError::damaged("app key", key))?;
                apps.push((app, AppRow::decode(key, bytes)?));
                Ok(true)
            })?;
            Ok(apps)
        })
    }

    /// The last day on which each of these terminals was connected, or registered: days since the epoch, UTC. Those who
    /// were not within [`cluster_proto::limits::SEEN_DAYS_MAX`] days before `now_ms` are left out.
    pub fn last_seen(&self, terminals: &TerminalSet, now_ms: u64) -> BTreeMap<TerminalNo, u32> {
        self.ask(|view| seen::last(view, now_ms, &terminals.0))
    }

    /// Whether who was connected on some day is too old to be asked for at `now_ms`.
    pub fn seen_old(&self, now_ms: u64) -> bool {
        self.ask(|view| seen::has_old(view, now_ms))
    }

    /// Whether there is an app of this number.
    pub fn has_app(&self, app: AppId) -> bool {
        self.ask(|view| Ok(apps::find(view, app)?.is_some()))
    }

    /// The number of a terminal, given or lent.
    pub fn terminal_no(&self, app: AppId, id: &TerminalId) -> Option<TerminalNo> {
        self.ask(|view| read::<TerminalNo>(view, &keys::terminal_id(app, id)))
    }

    /// A terminal by its id, registered or lent a number.
    pub fn terminal_by_id(&self, app: AppId, id: &TerminalId) -> Option<TerminalRecord> {
        self.ask(|view| match read::<TerminalNo>(view, &keys::terminal_id(app, id))? {
            Some(no) => terminal(view, no),
            None => Ok(None),
        })
    }

    /// A terminal by its number.
    pub fn terminal_by_no(&self, no: TerminalNo) -> Option<TerminalRecord> {
        self.ask(|view| terminal(view, no))
    }

    /// The ids behind numbers in ascending order, registered or lent; in one pass over the rows between the first and the
    /// last, as far as that is shorter than looking for each.
    pub fn terminal_ids(&self, nos: &[TerminalNo]) -> Vec<Option<TerminalId>> {
        self.ask(|view| terminal_ids(view, nos))
    }

    /// Credentials of the terminal issued at or before this, seconds since the epoch, are void.
    pub fn revoked_until(&self, app: AppId, id: &TerminalId) -> u64 {
        self.ask(|view| revoked_until(view, app, id))
    }

    /// Registered terminals of an app, by id.
    pub fn list_terminals(
        &self,
        app: AppId,
        after: Option<&TerminalId>,
        limit: usize,
    ) -> Vec<TerminalRecord> {
        self.ask(|view| {
            let prefix = keys::terminal_ids(app);
            let from = after.map_or(prefix.clone(), |id| keys::after(keys::terminal_id(app, id)));
            let mut terminals = Vec::new();
            if limit == 0 {
                return Ok(terminals);
            }
            view.scan(&from, keys::prefix_end(&prefix), &mut |key, bytes| {
                let no = TerminalNo::decode(key, bytes)?;
                if no.is_registered() {
                    terminals.extend(terminal(view, no)?);
                }
                Ok(terminals.len() < limit)
            })?;
            Ok(terminals)
        })
    }

    /// The session of a terminal.
    pub fn session(&self, no: TerminalNo) -> Option<SessionRecord> {
        self.ask(|view| Ok(read::<SessionRow>(view, &keys::session(no))?.map(SessionRecord::from)))
    }

    /// Its subscriptions, by filter.
    pub fn subscriptions(&self, no: TerminalNo) -> Vec<Subscription> {
        self.ask(|view| subscriptions::list(view, no))
    }

    /// How many sessions there are, with or without a connection.
    pub fn sessions_len(&self) -> u64 {
        self.shared.read().head.sessions
    }

    /// Deliveries a session goes on with, as [`crate::Applied::Session`] orders them. Of a session with a connection,
    /// QoS 1 deliveries are those it took over from the connection before.
    pub fn outbound(&self, no: TerminalNo) -> Vec<Outbound> {
        self.ask(|view| exchanges::outbound(view, no))
    }

    /// Whether there is any shared subscription group.
    pub fn has_groups(&self) -> bool {
        !self.shared.read().groups.is_empty()
    }

    /// Whether a number is a shared subscription group's.
    pub fn is_group(&self, no: TerminalNo) -> bool {
        !no.is_registered() && self.shared.read().groups.contains(no)
    }

    /// The shared subscription groups whose filter matches a topic, by number.
    pub fn groups_matching(&self, app: AppId, topic: &str) -> Vec<TerminalNo> {
        self.shared.read().groups.matching(app, topic)
    }

    /// The members of a group and what each is granted, by number.
    pub fn group_members(&self, group: TerminalNo) -> Vec<(TerminalNo, Qos)> {
        self.ask(|view| groups::members(view, group))
    }

    /// The groups a session is a member of.
    pub fn groups_of(&self, member: TerminalNo) -> Vec<TerminalNo> {
        self.ask(|view| {
            if view.groups.is_empty() {
                return Ok(Vec::new());
            }
            match read::<TerminalRow>(view, &keys::terminal(member))? {
                Some(terminal) => groups::of_member(view, terminal.app, member),
                None => Ok(Vec::new()),
            }
        })
    }

    /// The groups a session is a member of, and what it is granted by each.
    pub fn memberships(&self, member: TerminalNo) -> Vec<(TerminalNo, Qos)> {
        let granted = |group: &TerminalNo| {
            let granted = self.ask(|view| read::<Qos>(view, &keys::group_member(*group, member)))?;
            Some((*group, granted))
        };
        self.groups_of(member).iter().filter_map(granted).collect()
    }

    /// Retained messages whose topic matches a plain filter, by topic, after `after`, that live at `now_ms` and were
    /// kept at or before `upto`, the `index` of [`crate::Applied::Session`]. A page has at most
    /// [`cluster_proto::limits::RETAINED_PAGE_LEN_MAX`] bytes (or one message) and 256 messages, and looks at no more
    /// than 4,096 topics.
    pub fn retained(
        &self,
        app: AppId,
        filter: &str,
        upto: u64,
        after: Option<&str>,
        now_ms: u64,
    ) -> RetainedPage {
        self.ask(|view| retained::page(view, app, filter, upto, after, now_ms))
    }

    /// The retained message of an id, while it is the one of its topic.
    pub fn retained_by_id(&self, id: PushId) -> Option<RetainedMessage> {
        self.ask(|view| retained::by_id(view, id))
    }

    /// How many messages an app retains.
    pub fn retained_len(&self, app: AppId) -> u64 {
        self.ask(|view| Ok(retained::count(view, app)?.messages))
    }

    /// How many commands were applied: what `upto` of [`Tables::retained`] counts in.
    pub fn command_index(&self) -> u64 {
        self.shared.read().head.commands
    }

    /// A push and how it stands.
    pub fn push(&self, push: PushId) -> Option<PushRecord> {
        self.ask(|view| {
            let Some(PushSets { id, row, .. }) = PushSets::open(view, push)? else { return Ok(None) };
            let message = read::<Message>(view, &keys::payload(id))?;
            Ok(message.map(|message| PushRecord {
                message: Arc::new(message),
                accepted_at_ms: row.accepted_at_ms,
                expires_at_ms: row.expires_at_ms,
                options: row.options,
                replaced_by: row.replaced_by,
                audience_len: row.audience_len,
                withdrawn: row.withdrawn,
                settled_at_ms: row.settled_at_ms,
                release: row.release.map(|release| ReleaseRecord {
                    phase: release.phase,
                    due_ms: release.due_ms,
                    released: release.released,
                }),
            }))
        })
    }

    /// Who is in a state.
    pub fn targets(&self, push: PushId, state: State) -> Option<TerminalSet> {
        self.ask_push(push, |view, push| Ok(TerminalSet(push.in_state(view, state)?)))
    }

    /// Who reported this.
    pub fn reported(&self, push: PushId, what: AppReceipt) -> Option<TerminalSet> {
        self.ask_push(push, |view, push| Ok(TerminalSet(push.reported(view, what)?)))
    }

    /// What the application on one terminal reported.
    pub fn reported_by(&self, push: PushId, no: TerminalNo) -> Vec<AppReceipt> {
        self.ask_push(push, |view, push| push.reported_by(view, no)).unwrap_or_default()
    }

    /// The state of one terminal (or group); absent: not in the audience, or no such push.
    pub fn state_of(&self, push: PushId, no: TerminalNo) -> Option<State> {
        self.ask_push(push, |view, push| push.state_of(view, no)).flatten()
    }

    /// Everyone a push is for.
    pub fn audience(&self, push: PushId) -> Option<TerminalSet> {
        self.ask_push(push, |view, push| Ok(TerminalSet(push.audience(view)?)))
    }

    /// Those of them whose subscription granted QoS 0 only.
    pub fn audience_qos0(&self, push: PushId) -> TerminalSet {
        self.ask_push(push, |view, push| Ok(TerminalSet(push.qos0(view)?))).unwrap_or_default()
    }

    /// Whom an audience means at `now_ms`. Waits for nothing and keeps nothing waiting, however many that are.
    pub fn resolve(
        &self,
        audience: &Audience,
        app: AppId,
        topic: &str,
        online: Option<&TerminalSet>,
        now_ms: u64,
    ) -> Result<TerminalSet, Refusal> {
        let about = About { app, kind: audience.kind(), topic, publisher: None, online, now_ms };
        let resolved = self.scan_all(|snapshot| {
            let resolved = resolve::audience(snapshot, audience, &about)?;
            Ok(Some(resolved.map(|resolved| TerminalSet(resolved.union(|part| &part.any)))))
        });
        self.answered(resolved).unwrap_or_else(|| Ok(TerminalSet::new()))
    }

    /// How many are in which state.
    pub fn counts(&self, push: PushId) -> Option<Counts> {
        self.ask_push(push, |_, push| Ok(push.counts()))
    }

    /// Whether the terminal must still get the push.
    pub fn is_pending(&self, push: PushId, no: TerminalNo) -> bool {
        self.ask_push(push, |view, push| push.is_pending(view, no)).unwrap_or_default()
    }

    /// Pushes pending for a terminal with ids in `after+1..=upto` that may still be handed out at `now_ms`,
    /// ascending, whatever their priority.
    pub fn owed(
        &self,
        no: TerminalNo,
        after: PushId,
        upto: PushId,
        now_ms: u64,
        limit: usize,
    ) -> Vec<OwedRow> {
        self.ask(|view| owed::list(view, no, (after, upto), now_ms, limit))
    }

    /// What a terminal is to be handed next: pushes as in [`Tables::owed`], urgent ones first, each priority from behind
    /// its own last.
    pub fn owed_page(
        &self,
        no: TerminalNo,
        after: After,
        upto: PushId,
        now_ms: u64,
        limit: usize,
    ) -> Vec<OwedRow> {
        self.ask(|view| owed::page(view, no, (after, upto), now_ms, limit))
    }

    /// How many of those come before `push`, which is one of them, counted up to `limit`.
    pub fn owed_before(&self, no: TerminalNo, push: PushId, urgent: bool, limit: usize) -> usize {
        self.ask(|view| owed::before(view, no, push, urgent, limit))
    }

    /// How many pushes are pending for a terminal, counted up to `limit`.
    pub fn owed_len(&self, no: TerminalNo, limit: usize) -> usize {
        self.ask(|view| owed::len(view, no, limit))
    }

    /// Pushes and waves after `after` that are pending somewhere and not withdrawn, in order: what a dispatcher that missed
    /// effects has to do (I7).
    pub fn accepted_after(&self, after: PushId, limit: usize) -> Vec<Arc<AcceptedPush>> {
        self.ask(|view| {
            let (ids, _) = dispatched(view, after, PushId(u64::MAX), limit)?;
            let mut accepted = Vec::new();
            for id in ids {
                accepted.extend(accepted_push(view, id)?);
            }
            Ok(accepted)
        })
    }

    /// Withdrawn pushes after `after` that are pending somewhere, in order: they were in flight, and no receipt came yet.
    pub fn unsettled_withdrawn(&self, after: PushId, limit: usize) -> Vec<PushId> {
        self.ask(|view| {
            let mut pushes = Vec::new();
            if limit > 0 {
                let end = keys::prefix_end(&keys::withdrawns());
                view.scan(&keys::after(keys::withdrawn(after)), end, &mut |key, _| {
                    pushes.extend(keys::push_of(key));
                    Ok(pushes.len() < limit)
                })?;
            }
            Ok(pushes)
        })
    }

    /// Pushes that have older ones to replace, in order.
    pub fn collapses(&self, limit: usize) -> Vec<PushId> {
        self.ask(|view| collapse::marked(view, limit))
    }

    /// What such a push replaces, a part of at most `limit` pushes and terminals; `None`: nothing is left to do.
    pub fn to_collapse(&self, by: PushId, limit: usize) -> Option<ToCollapse> {
        self.ask(|view| collapse::to_collapse(view, by, limit))
    }

    /// Pushes after `after` that are replaced for somebody who has them in flight, in order.
    pub fn collapsing_after(&self, after: PushId, limit: usize) -> Vec<PushId> {
        self.ask(|view| collapse::collapsing(view, after, limit))
    }

    /// For whom a push is replaced, and pending because it is in flight.
    pub fn collapsing(&self, push: PushId) -> TerminalSet {
        self.ask_push(push, |view, push| Ok(TerminalSet(push.collapsing(view)?))).unwrap_or_default()
    }

    /// Of the next `limit` pushes and waves in `after+1..=upto`, those with QoS 0 that are pending somewhere and not
    /// withdrawn; and up to where was looked.
    pub fn pending_qos0(&self, after: PushId, upto: PushId, limit: usize) -> (Vec<PushId>, PushId) {
        self.ask(|view| {
            let (ids, looked_upto) = dispatched(view, after, upto, limit)?;
            let mut found = Vec::new();
            for id in ids {
                let of = PushSets::open(view, id)?.map_or(id, |push| push.id);
                let message = read::<Message>(view, &keys::payload(of))?;
                found.extend(message.filter(|message| message.qos == Qos::AtMostOnce).map(|_| id));
            }
            Ok((found, looked_upto))
        })
    }

    /// Whether the release of a push goes on at `now_ms`.
    pub fn releases_due(&self, now_ms: u64) -> bool {
        let end = keys::release_due(now_ms.saturating_add(1), PushId(0));
        self.ask(|view| view.any(&keys::releases_due(), end))
    }

    /// Pushes whose roll-out went badly and that are not recalled yet, with their app, in id order.
    pub fn halted(&self, limit: usize) -> Vec<(AppId, PushId)> {
        self.ask(|view| {
            let mut halted = Vec::new();
            for key in view.keys(&keys::halteds(), limit)? {
                let push = PushSets::open(view, owed::push_of(&key)?)?;
                halted.extend(push.map(|push| (push.row.app, push.id)));
            }
            Ok(halted)
        })
    }

    /// The app of a push, and its own id, if it was asked for by that of a wave.
    pub fn whole_push(&self, push: PushId) -> Option<(AppId, PushId)> {
        self.ask_push(push, |_, push| Ok((push.row.app, push.id)))
    }

    /// Who must still get a push, by the ids under which it was handed out; without those it is not released to.
    pub fn pending_by_id(&self, push: PushId) -> Vec<(PushId, TerminalSet)> {
        self.ask_push(push, |view, push| {
            let pending = push.whole(view, State::Pending)?;
            if push.row.release.is_none() {
                return Ok(vec![(push.id, TerminalSet(pending))]);
            }
            // Read once, not once for each wave.
            let parts = Waves::of(view, push)?
                .iter()
                .map(|(id, slice)| (*id, slice.of(&pending)))
                .collect::<Vec<_>>();
            Ok(parts
                .into_iter()
                .filter(|(_, part)| !part.is_empty())
                .map(|(id, part)| (id, TerminalSet(part)))
                .collect())
        })
        .unwrap_or_default()
    }

    /// The ids under which a push was handed out: its own, or those of its waves.
    pub fn dispatched_as(&self, push: PushId) -> Vec<PushId> {
        self.ask_push(push, |view, push| match push.row.release {
            None => Ok(vec![push.id]),
            Some(_) => Ok(Waves::of(view, push)?.iter().map(|(wave, _)| *wave).collect()),
        })
        .unwrap_or_default()
    }

    /// The id under which a terminal of its audience is handed a push; absent: not released to it.
    pub fn dispatched_to(&self, push: PushId, no: TerminalNo) -> Option<PushId> {
        self.ask_push(push, |view, push| match push.row.release {
            None => Ok(Some(push.id)),
            Some(_) => {
                let (id, wave) = Waves::of(view, push)?.of_terminal(push.id, no.0);
                Ok(wave.map(|_| id))
            }
        })
        .flatten()
    }

    /// Pushes whose time to live is over at `now_ms`, and that are not withdrawn.
    pub fn due(&self, now_ms: u64, limit: usize) -> Vec<PushId> {
        self.ask(|view| {
            let mut due = Vec::new();
            if limit > 0 {
                let end = keys::expiry(now_ms.saturating_add(1), PushId(0));
                view.scan(&keys::expiries(), end, &mut |key, _| {
                    due.extend(keys::push_of(key));
                    Ok(due.len() < limit)
                })?;
            }
            Ok(due)
        })
    }

    /// Whether a push has been settled since before `settled_before_ms`: there is something to purge.
    pub fn purge_due(&self, settled_before_ms: u64) -> bool {
        self.ask(|view| view.any(&keys::retentions(), keys::retention(settled_before_ms, PushId(0))))
    }

    /// Whether a receipt stream has deltas from before `before_ms`, or more than `bytes_max` bytes of them.
    pub fn receipts_due(&self, before_ms: u64, bytes_max: u64) -> bool {
        self.ask(|view| {
            let mut due = false;
            view.scan_prefix(&keys::receipt_counts(), &mut |key, bytes| {
                let count = ReceiptCount::decode(key, bytes)?;
                due = count.rows > 0 && (count.first_at_ms < before_ms || count.bytes > bytes_max);
                Ok(!due)
            })?;
            Ok(due)
        })
    }

    /// Where the receipt stream of an app begins now.
    pub fn receipts_begin(&self, app: AppId) -> ReceiptCursor {
        self.ask(|view| receipts::begin(view, app).map(Some))
            .unwrap_or_else(|| ReceiptCursor::deltas(app, 0, 0))
    }

    /// After everything that has happened.
    pub fn receipts_end(&self, app: AppId) -> ReceiptCursor {
        ReceiptCursor::deltas(app, self.applied().index + 1, 0)
    }

    /// A page of the receipt stream of an app. From a place whose deltas were removed, every push is told as it stands
    /// first.
    pub fn receipts(&self, from: ReceiptCursor, limits: PageLimits) -> ReceiptPage {
        let page = self.ask(|view| receipts::page(view, from, limits).map(Some));
        page.unwrap_or_else(|| ReceiptPage::empty(from))
    }

    /// Deltas of all receipt streams, and bytes of them.
    pub fn receipts_kept(&self) -> (u64, u64) {
        self.ask(|view| {
            let mut kept = (0, 0);
            view.scan_prefix(&keys::receipt_counts(), &mut |key, bytes| {
                let count = ReceiptCount::decode(key, bytes)?;
                kept = (kept.0 + count.rows, kept.1 + count.bytes);
                Ok(true)
            })?;
            Ok(kept)
        })
    }

    /// The webhook of an app.
    pub fn webhook(&self, app: AppId) -> Option<WebhookRecord> {
        self.ask(|view| {
            let row = read::<WebhookRow>(view, &keys::webhook(app))?;
            let place = read::<ReceiptCursor>(view, &keys::webhook_place(app))?;
            Ok(row.zip(place).map(|(row, place)| WebhookRecord {
                webhook: row.webhook,
                generation: row.generation,
                set_at_ms: row.set_at_ms,
                is_gone: row.is_gone,
                place,
            }))
        })
    }

    /// The apps with a webhook that is not gone, each with the generation of it.
    pub fn webhooks(&self) -> Vec<(AppId, u64)> {
        self.ask(|view| {
            let mut webhooks = Vec::new();
            view.scan_prefix(&keys::webhooks(), &mut |key, bytes| {
                let row = WebhookRow::decode(key, bytes)?;
                let app = keys::app_of(key).filter(|_| !row.is_gone);
                webhooks.extend(app.map(|app| (app, row.generation)));
                Ok(true)
            })?;
            Ok(webhooks)
        })
    }

    /// Whether a detached session has to end at `now_ms`.
    pub fn sessions_due(&self, now_ms: u64) -> bool {
        let end = keys::session_expiry(now_ms.saturating_add(1), TerminalNo(0));
        self.ask(|view| view.any(&keys::session_expiries(), end))
    }

    /// Whether a will has to be published at `now_ms`.
    pub fn wills_due(&self, now_ms: u64) -> bool {
        let end = keys::will_due(now_ms.saturating_add(1), TerminalNo(0));
        self.ask(|view| view.any(&keys::wills_due(), end))
    }

    /// Whether the time to live of a retained message is over at `now_ms`.
    pub fn retained_due(&self, now_ms: u64) -> bool {
        let end = keys::retained_expiries_before(now_ms.saturating_add(1));
        self.ask(|view| view.any(&keys::retained_expiries(), end))
    }

    /// The life of an edge that has not ended, and the last sequence of each lane.
    pub fn edge_seqs(&self, edge: NodeId) -> Option<(Incarnation, Vec<(Lane, u64)>)> {
        let row = self.ask(|view| read::<EdgeRow>(view, &keys::edge(edge)))?;
        (!row.ended).then(|| (row.incarnation, LANES.into_iter().zip(row.seqs).collect()))
    }

    /// Whether a numbered command was refused. The last thousand of each lane are remembered.
    pub fn was_refused(&self, origin: &Origin) -> bool {
        self.refused(origin.edge, origin.lane).binary_search(&origin.seq).is_ok()
    }

    /// The last sequence of each lane up to which nothing was refused, as far as is remembered: what is after it may
    /// have to be answered again.
    pub fn edge_answered(&self, edge: NodeId) -> Vec<(Lane, u64)> {
        let seqs = self.edge_seqs(edge).map(|(_, seqs)| seqs).unwrap_or_default();
        let upto = |(lane, seq): (Lane, u64)| {
            let first = self.refused(edge, lane).first().copied();
            (lane, first.map_or(seq, |first| first - 1))
        };
        seqs.into_iter().map(upto).collect()
    }

    fn refused(&self, edge: NodeId, lane: Lane) -> Vec<u64> {
        self.ask(|view| refusals::of_lane(view, edge, lane))
    }

    /// The edges whose life has not ended.
    pub fn edges(&self) -> Vec<(NodeId, Incarnation)> {
        self.ask(|view| {
            let mut edges = Vec::new();
            view.scan_prefix(&keys::edges(), &mut |key, bytes| {
                let row = EdgeRow::decode(key, bytes)?;
                edges.extend(keys::edge_of(key).filter(|_| !row.ended).map(|edge| (edge, row.incarnation)));
                Ok(true)
            })?;
            Ok(edges)
        })
    }

    /// The key that signs: the newest.
    pub fn signing_key(&self) -> Option<SigningKey> {
        self.signing_keys().pop()
    }

    /// The keys that verify, oldest first.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let public = |key: SigningKey| PublicKey { kid: key.kid, ed25519: key.ed25519 };
        self.signing_keys().into_iter().map(public).collect()
    }

    /// A hash of everything in the tables, independent of how the database has laid it out: for tests, and to
    /// compare replicas at one position. Reads everything.
    pub fn scan_digest(&self) -> Result<u128, StoreError> {
        self.scan_all(|snapshot| digest::scan(snapshot))
    }

    /// How many rows there are of each kind, by tag. Reads everything.
    pub fn rows_by_tag(&self) -> Result<BTreeMap<u8, usize>, StoreError> {
        self.scan_all(|snapshot| {
            let mut rows = BTreeMap::<u8, usize>::new();
            snapshot
                .for_each(|key, _| *rows.entry(key.first().copied().unwrap_or_default()).or_default() += 1)?;
            Ok(rows)
        })
    }

    /// How many rows there are. Reads everything.
    pub fn row_count(&self) -> Result<usize, StoreError> {
        self.scan_all(|snapshot| {
            let mut count = 0;
            snapshot.for_each(|_, _| count += 1)?;
            Ok(count)
        })
    }

    /// Bytes on disk by family, of what was flushed: for tests and benchmarks.
    pub fn disk_usage(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let db = self.shared.read().db.clone();
        keys::Family::ALL.into_iter().map(|family| Ok((family.name(), db.disk_usage(family)?))).collect()
    }

    /// Rewrites everything on disk as compaction would leave it some day: for benchmarks.
    pub fn compact(&self) -> Result<(), StoreError> {
        let db = self.shared.read().db.clone();
        db.compact()
    }

    fn scan_all<T>(
        &self,
        scan: impl FnOnce(&mut Snapshot<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let view = self.shared.read();
        let db = view.db.clone();
        let mut snapshot = db.snapshot();
        // Commits need not wait for the scan.
        drop(view);
        scan(&mut snapshot)
    }

    fn signing_keys(&self) -> Vec<SigningKey> {
        self.ask(|view| {
            let mut keys = Vec::new();
            view.scan_prefix(&keys::signing_keys(), &mut |key, bytes| {
                keys.push(SigningKey::decode(key, bytes)?);
                Ok(true)
            })?;
            Ok(keys)
        })
    }

    fn ask<T: Default>(&self, question: impl FnOnce(&View) -> Result<T, StoreError>) -> T {
        let answer = question(&self.shared.read());
        self.answered(answer)
    }

    fn answered<T: Default>(&self, answer: Result<T, StoreError>) -> T {
        answer.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the tables failed");
            lock(&self.shared.failure).get_or_insert(error);
            T::default()
        })
    }

    fn ask_push<T>(
        &self,
        push: PushId,
        question: impl FnOnce(&View, &PushSets) -> Result<T, StoreError>,
    ) -> Option<T> {
        self.ask(|view| PushSets::open(view, push)?.map(|push| question(view, &push)).transpose())
    }
}

impl View {
    /// Whether there is a key in `from..end`.
    fn any(&self, from: &[u8], end: keys::Key) -> Result<bool, StoreError> {
        let mut any = false;
        self.scan(from, end, &mut |_, _| {
            any = true;
            Ok(false)
        })?;
        Ok(any)
    }
}

fn terminal(view: &View, no: TerminalNo) -> Result<Option<TerminalRecord>, StoreError> {
    let Some(row) = read::<TerminalRow>(view, &keys::terminal(no))? else { return Ok(None) };
    let revoked_until = read(view, &keys::revoked(row.app, &row.id))?.unwrap_or(0);
    let TerminalRow { app, id, labels: Labels { tags, alias }, registered_at_ms, .. } = row;
    Ok(Some(TerminalRecord { no, app, id, tags, alias, registered_at_ms, revoked_until }))
}

fn terminal_ids(view: &View, nos: &[TerminalNo]) -> Result<Vec<Option<TerminalId>>, StoreError> {
    let (Some(first), Some(last)) = (nos.first(), nos.last()) else { return Ok(Vec::new()) };
    let mut rows = view.db.iterator(&keys::terminal(*first), keys::after(keys::terminal(*last)))?;
    let mut ids = Vec::with_capacity(nos.len());
    for no in nos {
        let key = keys::terminal(*no);
        let mut passed = 0;
        while rows.key().is_some_and(|at| at < key.as_slice()) {
            passed += 1;
            if passed < ROWS_PASSED_MAX { rows.next() } else { rows.seek(&key) }
        }
        let row = rows.item().filter(|(at, _)| *at == key);
        ids.push(row.map(|(key, bytes)| TerminalRow::id_of(key, bytes)).transpose()?);
    }
    rows.status()?;
    Ok(ids)
}

fn revoked_until(view: &View, app: AppId, id: &TerminalId) -> Result<u64, StoreError> {
    let of_app = read::<AppRow>(view, &keys::app(app))?.map_or(0, |row| row.revoked_until);
    Ok(read::<u64>(view, &keys::revoked(app, id))?.unwrap_or(0).max(of_app))
}

/// The next `limit` pushes and waves in `after+1..=upto`: of them those that are pending somewhere and not withdrawn,
/// ascending, and up to where was looked.
fn dispatched(
    view: &View,
    after: PushId,
    upto: PushId,
    limit: usize,
) -> Result<(Vec<PushId>, PushId), StoreError> {
    if limit == 0 || after >= upto {
        return Ok((Vec::new(), after));
    }
    let is_live = |row: &PushRow| row.settled_at_ms.is_none() && row.withdrawn.is_none();
    let mut seen = Vec::new();
    view.scan(&keys::after(keys::push(after)), keys::after(keys::push(upto)), &mut |key, bytes| {
        let row = PushRow::decode(key, bytes)?;
        seen.push((owed::push_of(key)?, is_live(&row) && row.release.is_none()));
        Ok(seen.len() < limit)
    })?;
    for (id, wave) in release::waves_after(view, after, upto, limit)? {
        let row = read::<PushRow>(view, &keys::push(wave.push))?;
        seen.push((id, row.is_some_and(|row| is_live(&row))));
    }
    seen.sort_unstable();
    let looked_upto = if seen.len() < limit { upto } else { seen[limit - 1].0 };
    seen.truncate(limit);
    Ok((seen.into_iter().filter(|(_, live)| *live).map(|(id, _)| id).collect(), looked_upto))
}

fn accepted_push(view: &View, id: PushId) -> Result<Option<Arc<AcceptedPush>>, StoreError> {
    let Some(push) = PushSets::open(view, id)? else { return Ok(None) };
    let Some(message) = read::<Message>(view, &keys::payload(push.id))? else { return Ok(None) };
    Ok(Some(Arc::new(AcceptedPush {
        push: id,
        of: push.id,
        message: Arc::new(message),
        pending: TerminalSet(push.in_state(view, State::Pending)?),
        shown: push.row.shown,
        qos0: TerminalSet(push.qos0(view)?),
        expires_at_ms: push.row.expires_at_ms,
        urgent: push.row.options.urgent,
        collapses: read::<CollapseRow>(view, &keys::collapse(push.id))?.is_some(),
    })))
}

impl From<SessionRow> for SessionRecord {
    fn from(row: SessionRow) -> Self {
        Self {
            session: row.session,
            edge: row.edge,
            incarnation: row.incarnation,
            connection: row.connection,
            expiry_s: row.expiry_s,
            detached_at_ms: row.detached_at_ms,
        }
    }
}
