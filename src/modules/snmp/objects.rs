#![forbid(unsafe_code)]
//! What can be asked for: the system and snmp groups (RFC 3418), the engine (RFC 3411, 3414), and the
//! listeners with their counters (docs/PORTREEVE-MIB.txt).

use std::collections::HashMap;

use super::message::Value;
use crate::server::status::Status;

/// `portreeveMIB`. 32473 is the number that RFC 5612 keeps for documentation: this project has none of its own.
const MIB: [u32; 8] = [1, 3, 6, 1, 4, 1, 32473, 7007];

const SYSTEM: [u32; 7] = [1, 3, 6, 1, 2, 1, 1];
const SNMP: [u32; 7] = [1, 3, 6, 1, 2, 1, 11];
const ENGINE: [u32; 9] = [1, 3, 6, 1, 6, 3, 10, 2, 1];
pub(super) const MPD_STATS: [u32; 9] = [1, 3, 6, 1, 6, 3, 11, 2, 1];
pub(super) const USM_STATS: [u32; 9] = [1, 3, 6, 1, 6, 3, 15, 1, 1];

/// Why listeners refuse, in the numbers of the MIB. A reason that has none there is not shown.
const REASONS: [(u32, &str); 8] = [
    (1, "denied"),
    (2, "banned"),
    (3, "restricted"),
    (4, "full"),
    (5, "reserved"),
    (6, "address_limit"),
    (7, "rate"),
    (8, "overload"),
];

/// What the owner says of the machine.
#[derive(Debug, Clone, Default)]
pub(super) struct System {
    pub(super) contact: String,
    pub(super) name: String,
    pub(super) location: String,
}

/// Values by their names, in the order of the names.
#[derive(Debug, Default)]
pub(super) struct Tree {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: Vec<u32>,
    /// How much of the name is the object's; the rest is the instance's.
    object: usize,
    value: Value,
}

impl Tree {
    pub(super) fn get(&self, name: &[u32]) -> Option<&Value> {
        let found = self
            .rows
            .binary_search_by(|row| row.name.as_slice().cmp(name));
        found.ok().map(|at| &self.rows[at].value)
    }

    /// All that come after a name.
    pub(super) fn after(&self, name: &[u32]) -> impl Iterator<Item = (&[u32], &Value)> {
        let rows = self.rows[self.place(name)..].iter();
        rows.map(|row| (row.name.as_slice(), &row.value))
    }

    /// True when another instance of the same object is there.
    pub(super) fn has_object(&self, name: &[u32]) -> bool {
        // The rows of an object stand together, so one of them would be a neighbour.
        let place = self.place(name);
        let neighbours = [place.checked_sub(1), Some(place)];
        let mut rows = neighbours
            .into_iter()
            .flatten()
            .filter_map(|at| self.rows.get(at));
        rows.any(|row| name.starts_with(&row.name[..row.object]))
    }

    fn place(&self, name: &[u32]) -> usize {
        self.rows.partition_point(|row| row.name.as_slice() <= name)
    }

    fn push(&mut self, group: &[u32], object: &[u32], instance: &[u32], value: Value) {
        self.rows.push(Row {
            name: [group, object, instance].concat(),
            object: group.len() + object.len(),
            value,
        });
    }

    fn sort(&mut self) {
        self.rows.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// Numbers of listeners: given at first sight and kept, so that a reload renumbers nobody.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_name: HashMap<String, u32>,
}

impl Numbers {
    fn of(&mut self, name: &str) -> u32 {
        let next = u32::try_from(self.by_name.len() + 1).unwrap_or(u32::MAX);
        *self.by_name.entry(name.to_owned()).or_insert(next)
    }
}

/// What the agent itself counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) packets: u32,
    pub(super) bad_versions: u32,
    pub(super) bad_communities: u32,
    pub(super) parse_errors: u32,
    pub(super) silent_drops: u32,
    /// `snmpUnknownSecurityModels` and the two after it (RFC 3412).
    pub(super) mpd: [u32; 3],
    /// `usmStatsUnsupportedSecLevels` and the five after it (RFC 3414).
    pub(super) usm: [u32; 6],
}

/// The engine as v3 managers see it.
#[derive(Debug, Clone)]
pub(super) struct EngineFacts {
    pub(super) id: Vec<u8>,
    pub(super) boots: u32,
    /// Seconds since it was booted.
    pub(super) time: u32,
    pub(super) max_size: u32,
}

/// All there is at one moment.
pub(super) fn tree(
    system: &System,
    counts: &Counts,
    engine: Option<&EngineFacts>,
    status: &Status,
    numbers: &mut Numbers,
) -> Tree {
    let mut tree = Tree::default();
    system_group(&mut tree, system);
    snmp_group(&mut tree, counts);
    if let Some(engine) = engine {
        engine_groups(&mut tree, counts, engine);
    }
    listeners(&mut tree, status, numbers);
    tree.sort();
    tree
}

/// RFC 3418, 2.
fn system_group(tree: &mut Tree, system: &System) {
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let about = concat!("portreeve ", env!("CARGO_PKG_VERSION"));
    let rows = [
        (1, text(about)),
        (2, Value::Name(MIB.to_vec())),
        (3, Value::Uptime),
        (4, text(&system.contact)),
        (5, text(&system.name)),
        (6, text(&system.location)),
        // Applications: the layer 7 alone.
        (7, Value::Integer(64)),
        (8, Value::Ticks(0)),
    ];
    for (object, value) in rows {
        tree.push(&SYSTEM, &[object], &[0], value);
    }
    let supported = [
        (
            &[1, 3, 6, 1, 6, 3, 1][..],
            "The MIB module for SNMPv2 entities",
        ),
        (&MIB, "The listeners of portreeve and their counters"),
    ];
    for (index, (name, about)) in (1..).zip(supported) {
        tree.push(&SYSTEM, &[9, 1, 2], &[index], Value::Name(name.to_vec()));
        tree.push(&SYSTEM, &[9, 1, 3], &[index], text(about));
        tree.push(&SYSTEM, &[9, 1, 4], &[index], Value::Ticks(0));
    }
}

/// RFC 3418, 2; those that are not obsolete.
fn snmp_group(tree: &mut Tree, counts: &Counts) {
    let rows = [
        (1, Value::Counter32(counts.packets)),
        (3, Value::Counter32(counts.bad_versions)),
        (4, Value::Counter32(counts.bad_communities)),
        (5, Value::Counter32(0)),
        (6, Value::Counter32(counts.parse_errors)),
        // No traps are sent.
        (30, Value::Integer(2)),
        (31, Value::Counter32(counts.silent_drops)),
        (32, Value::Counter32(0)),
    ];
    for (object, value) in rows {
        tree.push(&SNMP, &[object], &[0], value);
    }
}

fn engine_groups(tree: &mut Tree, counts: &Counts, engine: &EngineFacts) {
    let number = |number: u32| Value::Integer(i32::try_from(number).unwrap_or(i32::MAX));
    let rows = [
        (1, Value::Bytes(engine.id.clone())),
        (2, number(engine.boots)),
        (3, number(engine.time)),
        (4, number(engine.max_size)),
    ];
    for (object, value) in rows {
        tree.push(&ENGINE, &[object], &[0], value);
    }
    for (object, count) in (1..).zip(counts.mpd) {
        tree.push(&MPD_STATS, &[object], &[0], Value::Counter32(count));
    }
    for (object, count) in (1..).zip(counts.usm) {
        tree.push(&USM_STATS, &[object], &[0], Value::Counter32(count));
    }
}

/// docs/PORTREEVE-MIB.txt.
fn listeners(tree: &mut Tree, status: &Status, numbers: &mut Numbers) {
    let gauge = |number: usize| Value::Gauge32(u32::try_from(number).unwrap_or(u32::MAX));
    tree.push(&MIB, &[1, 1, 1], &[0], gauge(status.workers.total));
    tree.push(&MIB, &[1, 1, 2], &[0], gauge(status.workers.busy));
    for listener in &status.listeners {
        let index = numbers.of(&listener.name);
        let tcp = listener.transport == "tcp";
        let count = |wanted: bool| Value::Counter64(if wanted { listener.accepted } else { 0 });
        let rows = [
            (2, Value::Bytes(listener.name.clone().into_bytes())),
            (3, Value::Integer(if tcp { 1 } else { 2 })),
            (4, Value::Gauge32(listener.channels)),
            (5, Value::Gauge32(listener.active)),
            (6, count(tcp)),
            (7, count(!tcp)),
        ];
        for (column, value) in rows {
            tree.push(&MIB, &[1, 2, 1, column], &[index], value);
        }
        for (reason, name) in REASONS {
            let refused = listener.rejected.get(name).copied().unwrap_or(0);
            let refused = Value::Counter64(refused);
            tree.push(&MIB, &[1, 3, 1, 2], &[index, reason], refused);
        }
    }
}
