//! The table in the kernel: put there, taken away, read back and compared.
//!
//! The kernel's own words for a table differ between versions. So what is found is compared with what the same kernel says
//! of the same table, freshly made in a network of its own ([`reference()`]); only handles and counts are left out.

use std::{io, thread};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::socket::SockProtocol,
};

use super::{encode, sources, table::Table};
use crate::netlink::{Message, Socket, attributes};

/// A rule's expressions, and in them name and data of each.
const EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;
const USER_DATA: u16 = 7;
const HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const GENERATION: u16 = 1;
const SET_ELEMENTS: u16 = 3;
/// A question is asked again this often if what it is about changes meanwhile.
const TRIES_MAX: usize = 16;

/// A kind of thing in a table: how to ask for it, where its names are, and which attributes say what it is.
struct Kind {
    question: i32,
    table: u16,
    chain: Option<u16>,
    name: u16,
    says: &'static [u16],
    called: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { question: libc::NFT_MSG_GETTABLE, table: 1, chain: None, name: 1, says: &[1, 2], called: "table" },
    Kind { question: libc::NFT_MSG_GETSET, table: 1, chain: None, name: 2, says: &[2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 17, 18], called: "set" },
    Kind { question: libc::NFT_MSG_GETCHAIN, table: 1, chain: None, name: 3, says: &[3, 4, 5, 7, 10], called: "chain" },
    Kind { question: libc::NFT_MSG_GETRULE, table: 1, chain: Some(2), name: 7, says: &[2, 4, 7], called: "rule" },
];

/// Something in a table, as the kernel tells it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// What it is, for people.
    pub(super) called: String,
    /// The row a rule says it comes from.
    pub(super) row: Option<String>,
    /// Packets a rule has stopped.
    pub(super) packets: u64,
    /// Everything that makes it what it is.
    identity: Vec<u8>,
}

pub(super) const FAMILY_INET: u8 = 1;
pub(super) const FAMILY_BRIDGE: u8 = 7;

/// A table as the kernel tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableId {
    pub(super) family: u8,
    pub(super) name: String,
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = if self.family == FAMILY_BRIDGE { "bridge" } else { "inet" };
        write!(f, "table {family} {}", self.name)
    }
}

/// What the kernel can be told to have for a table.
pub(super) trait Rules: std::fmt::Debug + Clone + Send + 'static {
    fn id(&self) -> TableId;
    /// What to tell it.
    fn batch(&self) -> Vec<Message>;
}

impl Rules for Table {
    fn id(&self) -> TableId {
        TableId { family: FAMILY_INET, name: self.name.clone() }
    }

    fn batch(&self) -> Vec<Message> {
        encode::install(self)
    }
}

/// Makes it the table of its name, in one transaction.
pub(super) fn install(rules: &impl Rules) -> io::Result<()> {
    open()?.transact(rules.batch())
}

/// Removes the table of that name; fine when there is none.
pub(super) fn remove(table: &TableId) -> io::Result<()> {
    open()?.transact(encode::remove(table))
}

/// Changes with every change of any table on this machine.
pub(super) fn generation() -> io::Result<Vec<u8>> {
    let replies = open()?.ask(encode::message(FAMILY_INET, libc::NFT_MSG_GETGEN, 0))?;
    let body = replies.first().map(|reply| family_free(reply)).unwrap_or_default();
    Ok(attributes(body).find(|(kind, _)| *kind == GENERATION).map(|(_, value)| value.to_vec()).unwrap_or_default())
}

/// Everything in the table of that name; nothing if there is no such table.
///
/// Its parts are asked for one kind after the other. They belong together if no table has changed meanwhile, or if they are the same when
/// they are asked for again: on a machine whose firewall is always being changed there may be no quiet moment.
pub(super) fn read(table: &TableId) -> io::Result<Vec<Part>> {
    let mut earlier: Option<Vec<Part>> = None;
    for _ in 0..TRIES_MAX {
        let before = generation()?;
        match read_once(table) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(parts) => {
                if generation()? == before || earlier.as_ref().is_some_and(|earlier| are_same(earlier, &parts)) {
                    return Ok(parts);
                }
                earlier = Some(parts);
            }
        }
    }
    Err(io::Error::other("the firewall's tables change all the time"))
}

fn read_once(table: &TableId) -> io::Result<Vec<Part>> {
    let parts = KINDS.iter().map(|kind| read_kind(kind, table)).chain([elements(table)]);
    Ok(parts.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn are_same(one: &[Part], other: &[Part]) -> bool {
    one.iter().map(|part| &part.identity).eq(other.iter().map(|part| &part.identity))
}

/// What the kernel would say of the table, had it been installed and never touched.
pub(super) fn reference(rules: &impl Rules) -> io::Result<Vec<Part>> {
    let rules = rules.clone();
    let elsewhere = move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        install(&rules)?;
        read(&rules.id())
    };
    thread::spawn(elsewhere).join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

/// What is wrong with `found`, in words; nothing if it is as wanted.
pub(super) fn differences(wanted: &[Part], found: &[Part]) -> Vec<String> {
    if found.is_empty() {
        return vec!["the table isn't there".to_owned()];
    }
    let mut left: Vec<&Part> = found.iter().collect();
    let mut different: Vec<String> = Vec::new();
    for part in wanted {
        match left.iter().position(|other| other.identity == part.identity) {
            Some(index) => drop(left.remove(index)),
            None => different.push(format!("{} is missing or changed", part.called)),
        }
    }
    different.extend(left.iter().map(|part| format!("{} isn't ours", part.called)));
    if different.is_empty() && !are_same(wanted, found) {
        different.push("its rules are in another order".to_owned());
    }
    different
}

fn open() -> io::Result<Socket> {
    Socket::open(SockProtocol::NetlinkNetFilter)
}

/// What follows `struct nfgenmsg`.
fn family_free(reply: &[u8]) -> &[u8] {
    reply.get(4..).unwrap_or_default()
}

/// What is in the set of a table of sources, in an order of its own: those of other tables are the kernel's to fill.
fn elements(table: &TableId) -> io::Result<Vec<Part>> {
    if table.family != FAMILY_BRIDGE {
        return Ok(Vec::new());
    }
    let question = encode::message(table.family, libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP).text(1, &table.name).text(2, sources::SET);
    let replies = match open()?.ask(question) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let lists = replies.iter().flat_map(|reply| attributes(family_free(reply))).filter(|(kind, _)| *kind == SET_ELEMENTS);
    let mut all: Vec<&[u8]> = lists.flat_map(|(_, list)| attributes(list)).map(|(_, element)| element).collect();
    all.sort_unstable();
    let identity = [b"elements", all.concat().as_slice()].concat();
    Ok(vec![Part { called: format!("what is in set {}", sources::SET), row: None, packets: 0, identity }])
}

fn read_kind(kind: &Kind, table: &TableId) -> io::Result<Vec<Part>> {
    let question: Message = encode::message(table.family, kind.question, libc::NLM_F_DUMP).text(1, &table.name);
    let replies = match open()?.ask(question) {
        // Some kinds are only looked up in a table that is there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let ours = replies.iter().filter(|reply| reply.first() == Some(&table.family));
    let parts: Vec<Part> = ours.filter_map(|reply| part(kind, &table.name, reply)).collect();
    // While a table is replaced the kernel may list both, and doesn't always say that it was changed.
    let is_being_replaced = kind.question == libc::NFT_MSG_GETTABLE && parts.len() > 1;
    if is_being_replaced { Err(io::ErrorKind::Interrupted.into()) } else { Ok(parts) }
}

fn part(kind: &Kind, table: &str, reply: &[u8]) -> Option<Part> {
    let all: Vec<(u16, &[u8])> = attributes(family_free(reply)).collect();
    let value = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    if value(kind.table).map(text) != Some(table.to_owned()) {
        return None;
    }
    let row = kind.chain.and_then(|_| comment(value(USER_DATA)?));
    let called = match kind.chain.and_then(value).map(text) {
        Some(chain) => format!("rule {:?} of chain {chain}", row.as_deref().unwrap_or("(unnamed)")),
        None => format!("{} {}", kind.called, value(kind.name).map(text).unwrap_or_default()),
    };
    let (mut identity, mut packets) = (kind.called.as_bytes().to_vec(), 0);
    for (attribute, value) in all.iter().filter(|(attribute, _)| kind.says.contains(attribute)) {
        identity.extend_from_slice(&attribute.to_ne_bytes());
        if kind.chain.is_some() && *attribute == EXPRESSIONS {
            packets = counted(value, &mut identity);
        } else {
            identity.extend_from_slice(&value.len().to_ne_bytes());
            identity.extend_from_slice(value);
        }
    }
    Some(Part { called, row, packets, identity })
}

/// Adds a rule's expressions to `identity`, without what its counter has counted; that is the answer.
fn counted(expressions: &[u8], identity: &mut Vec<u8>) -> u64 {
    let mut packets = 0;
    for (_, expression) in attributes(expressions) {
        let part = |wanted| attributes(expression).find(|(kind, _)| *kind == wanted).map(|(_, value)| value).unwrap_or_default();
        let (name, mut data) = (part(EXPRESSION_NAME), part(EXPRESSION_DATA));
        if name == b"counter\0" {
            let count = attributes(data).find(|(kind, _)| *kind == COUNTER_PACKETS).and_then(|(_, count)| count.first_chunk().copied());
            packets += count.map_or(0, u64::from_be_bytes);
            data = &[];
        }
        for piece in [name, data] {
            identity.extend_from_slice(&piece.len().to_ne_bytes());
            identity.extend_from_slice(piece);
        }
    }
    packets
}

/// The comment in a rule's user data: kind 0, length, text with its zero.
fn comment(user_data: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = user_data else { return None };
    Some(text(rest.get(..usize::from(*length))?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// A base chain of any table that sees what ours sees.
#[derive(Debug)]
pub(super) struct OtherChain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) hook: u32,
    pub(super) drops: bool,
    /// Of the family `netdev`: the links it is at.
    pub(super) devices: Vec<String>,
}

/// Base chains of all tables but ours, of all families.
pub(super) fn other_chains(ours: &[TableId]) -> io::Result<Vec<OtherChain>> {
    let mut question = Err(io::ErrorKind::Interrupted.into());
    for _ in 0..TRIES_MAX {
        question = open()?.ask(encode::any_family(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP));
        if !question.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            break;
        }
    }
    let be32 = |value: &[u8]| value.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
    let chain = |reply: &Vec<u8>| {
        let all: Vec<(u16, &[u8])> = attributes(family_free(reply)).collect();
        let value = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let place: Vec<(u16, &[u8])> = attributes(value(HOOK)?).collect();
        let hook = place.iter().find(|(kind, _)| *kind == HOOK_NUMBER).map(|(_, number)| be32(number))?;
        let named = place.iter().flat_map(|(kind, value)| match *kind {
            HOOK_DEVICE => vec![text(value)],
            HOOK_DEVICES => attributes(value).map(|(_, name)| text(name)).collect(),
            _ => Vec::new(),
        });
        let drops = value(5).is_some_and(|policy| be32(policy) == 0);
        Some(OtherChain { family: *reply.first()?, table: text(value(1)?), chain: text(value(3)?), hook, drops, devices: named.collect() })
    };
    let found = question?.iter().filter_map(chain).collect::<Vec<_>>();
    Ok(found.into_iter().filter(|chain| !ours.iter().any(|table| table.family == chain.family && table.name == chain.table)).collect())
}

#[cfg(test)]
mod tests;
