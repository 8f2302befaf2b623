//! Shared subscription groups (MQTT section 4.8.2): all shared subscriptions of an app with one name and one filter.
//!
//! A group owns a lent number and subscribes to the plain filter with it, like a session. So audiences name the group,
//! its status is exact, and what it is owed settles like what a terminal is owed. Which member gets a push, only the
//! leader decides. The group goes with its last member.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{AppId, Qos, TerminalId, TerminalNo, limits::TERMINAL_ID_LEN_MAX};
use fabric_core::subscriptions::{
    FilterTree,
    filter::{Filter, validate_filter},
};

use super::{
    db::{Read, read},
    error::StoreError,
    keys, numbers, subscriptions,
    txn::Txn,
    value::{GroupRow, Stored as _},
};

/// How every filter of a shared subscription begins.
const SHARE: &str = "$share/";

/// Adds a member, or changes what it is granted.
pub(crate) fn join(
    txn: &mut Txn<'_>,
    app: AppId,
    (name, filter): (&str, &str),
    member: TerminalNo,
    granted: Qos,
) -> Result<(), StoreError> {
    let group = match txn.read(&keys::group_no(app, name, filter))? {
        Some(group) => group,
        None => create(txn, app, name, filter)?,
    };
    txn.put(keys::group_member(group, member), &granted);
    Ok(())
}

/// Removes a member; answers the group if that was its last: it has no subscription any more, and the caller settles
/// what it was owed and releases its number.
pub(crate) fn leave(
    txn: &mut Txn<'_>,
    app: AppId,
    (name, filter): (&str, &str),
    member: TerminalNo,
) -> Result<Option<TerminalNo>, StoreError> {
    let Some(group) = txn.read::<TerminalNo>(&keys::group_no(app, name, filter))? else { return Ok(None) };
    txn.delete(keys::group_member(group, member));
    if !txn.keys(&keys::group_members(group), 1)?.is_empty() {
        return Ok(None);
    }
    txn.delete(keys::group_no(app, name, filter));
    txn.delete(keys::group(group));
    subscriptions::unindex(txn, app, group, filter)?;
    txn.group_changes.push(GroupChange::Removed(group));
    Ok(Some(group))
}

fn create(txn: &mut Txn<'_>, app: AppId, name: &str, filter: &str) -> Result<TerminalNo, StoreError> {
    let group = numbers::lend(txn)?;
    numbers::insert_unnamed(txn, app, &shown_id(name, filter)?, group);
    let row = GroupRow { app, name: name.to_owned(), filter: filter.to_owned() };
    txn.put(keys::group_no(app, name, filter), &group);
    txn.put(keys::group(group), &row);
    // What its members are granted decides when they get it: for the group it is owed whatever they are granted.
    subscriptions::index(txn, app, group, filter, subscriptions::Marks::default(), true)?;
    txn.group_changes.push(GroupChange::Added(group, row));
    Ok(group)
}

/// What status listings show. A filter may be longer than an id, and may have control characters.
fn shown_id(name: &str, filter: &str) -> Result<TerminalId, StoreError> {
    let mut id = String::with_capacity(TERMINAL_ID_LEN_MAX);
    for c in SHARE.chars().chain(name.chars()).chain(['/']).chain(filter.chars()) {
        let c = if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        if id.len() + c.len_utf8() > TERMINAL_ID_LEN_MAX {
            break;
        }
        id.push(c);
    }
    TerminalId::new(id).map_err(|_| StoreError::damaged("shared subscription", filter.as_bytes()))
}

/// The members of a group and what each is granted, by number.
pub(crate) fn members(tables: &impl Read, group: TerminalNo) -> Result<Vec<(TerminalNo, Qos)>, StoreError> {
    let mut members = Vec::new();
    tables.scan_prefix(&keys::group_members(group), &mut |key, bytes| {
        let member = keys::no_of(key).ok_or_else(|| StoreError::damaged("group member key", key))?;
        members.push((member, Qos::decode(key, bytes)?));
        Ok(true)
    })?;
    Ok(members)
}

/// The groups a session is a member of, by its filters.
pub(crate) fn of_member(
    tables: &impl Read,
    app: AppId,
    member: TerminalNo,
) -> Result<Vec<TerminalNo>, StoreError> {
    let mut groups = Vec::new();
    tables.scan_prefix(&keys::subscription(member, SHARE), &mut |key, _| {
        let filter = keys::text_of(key).ok_or_else(|| StoreError::damaged("subscription key", key))?;
        if let Ok(Filter::Shared { group, filter }) = validate_filter(filter) {
            groups.extend(read::<TerminalNo>(tables, &keys::group_no(app, group, filter))?);
        }
        Ok(true)
    })?;
    Ok(groups)
}

/// What apply did to the groups; followed by [`GroupIndex`] when it is committed.
#[derive(Debug)]
pub(crate) enum GroupChange {
    Added(TerminalNo, GroupRow),
    Removed(TerminalNo),
}

/// All groups, in memory, as committed: what every QoS 0 message between edges is matched against. Groups are few
/// beside their members.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    rows: BTreeMap<TerminalNo, GroupRow>,
    filters: BTreeMap<AppId, FilterTree<BTreeSet<TerminalNo>>>,
}

impl GroupIndex {
    pub(super) fn load(tables: &impl Read) -> Result<Self, StoreError> {
        let mut index = Self::default();
        tables.scan_prefix(&keys::groups(), &mut |key, bytes| {
            let group = keys::no_of(key).ok_or_else(|| StoreError::damaged("group key", key))?;
            index.follow(GroupChange::Added(group, GroupRow::decode(key, bytes)?));
            Ok(true)
        })?;
        Ok(index)
    }

    pub(super) fn follow(&mut self, change: GroupChange) {
        match change {
            GroupChange::Added(group, row) => {
                let filters = self.filters.entry(row.app).or_default();
                filters.get_or_insert_with(&row.filter, BTreeSet::new).insert(group);
                self.rows.insert(group, row);
            }
            GroupChange::Removed(group) => {
                let Some(row) = self.rows.remove(&group) else { return };
                let Some(filters) = self.filters.get_mut(&row.app) else { return };
                if let Some(groups) = filters.get_mut(&row.filter) {
                    groups.remove(&group);
                    if groups.is_empty() {
                        filters.remove(&row.filter);
                    }
                }
                if filters.is_empty() {
                    self.filters.remove(&row.app);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn contains(&self, no: TerminalNo) -> bool {
        self.rows.contains_key(&no)
    }

    /// By number.
    pub(super) fn matching(&self, app: AppId, topic: &str) -> Vec<TerminalNo> {
        let mut groups = Vec::new();
        if let Some(filters) = self.filters.get(&app) {
            filters.for_each_match(topic, |found| groups.extend(found));
        }
        groups.sort_unstable();
        groups
    }
}
