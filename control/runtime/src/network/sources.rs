//! Which frames may come in by a pod's port at a bridge: those with the pod's own addresses. A table of family `bridge`.
//!
//! Port, hardware address and address of each pod are derived from each other ([`Pool`]), so the table depends only on the bridge's
//! network: it doesn't change when pods start or stop, and covers a port before it exists.
//!
//! | a frame | passes if |
//! |---|---|
//! | IPv4 | its source hardware and IP addresses are those of the port's pod |
//! | ARP | both the frame's source and the sender in its payload are |
//! | anything else | never |
//! | by a port that isn't such a pod's | its source isn't one of such a pod's, or of the bridge |

use std::{fmt, net::Ipv4Addr};

use nix::libc;

use super::{
    addresses::{Mac, Pool},
    encode::{
        self, CMP_EQUAL, CMP_UNEQUAL, META_INPUT_NAME, NETWORK_HEADER, REGISTER, VERDICT_ACCEPT, add_fate, compare, expression, load, meta,
    },
    kernel::{FAMILY_BRIDGE, Rules, TableId},
    policy::Fate,
};
use codiusd_net::netlink::Message;

/// The set's name.
pub(super) const SET: &str = "pods";
const CHAIN: &str = "prerouting";
const HOOK: u32 = 0;
/// Before the bridge learns a sender's port from a frame.
const PRIORITY: i32 = -300;
const LINK_HEADER: u32 = 0;
const ETHERNET_SOURCE: u32 = 6;
const IPV4_SOURCE: u32 = 12;
const ARP_HARDWARE_SENDER: u32 = 8;
const ARP_SENDER: u32 = 14;
const MAC_BYTES: u32 = 6;
const ADDRESS_BYTES: u32 = 4;
const META_PROTOCOL: u32 = 1;
/// A 16-byte register, and the 4-byte ones that start at the same offset.
const REGISTER_MAC: u32 = 2;
const REGISTER_ADDRESS: u32 = 8 + 6;
/// A name, a padded hardware address, an address.
const KEY_BYTES: usize = libc::IFNAMSIZ + 8 + 4;
/// nft's numbers for the types of an interface's name, a hardware address and an address.
const KEY_TYPES: [u32; 3] = [41, 9, 7];
const TYPE_BITS: u32 = 6;
const SET_ID: u32 = 1;
/// Elements per message.
const ELEMENTS_MAX: usize = 256;
const LOOKUP_INVERTED: u32 = 1;

/// The table for one bridge.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) name: String,
    pub(super) pool: Pool,
}

/// What is compared with the set, in addition to the port.
#[derive(Clone, Copy, Debug)]
enum Sender {
    Ip,
    Arp,
    /// The sender in the payload.
    ArpSaid,
}

impl Sender {
    const ALL: [Self; 3] = [Self::Ip, Self::Arp, Self::ArpSaid];

    fn row(self) -> &'static str {
        match self {
            Self::Ip => "source",
            Self::Arp => "arp",
            Self::ArpSaid => "arp-sender",
        }
    }

    fn protocol(self) -> (&'static str, i32) {
        match self {
            Self::Ip => ("ip", libc::ETH_P_IP),
            Self::Arp | Self::ArpSaid => ("arp", libc::ETH_P_ARP),
        }
    }

    /// Where the hardware address and the IP address are, and nft's names for them.
    fn fields(self) -> [(u32, u32, &'static str); 2] {
        let (frame, arp) = ((LINK_HEADER, ETHERNET_SOURCE, "ether saddr"), (NETWORK_HEADER, ARP_SENDER, "arp saddr ip"));
        match self {
            Self::Ip => [frame, (NETWORK_HEADER, IPV4_SOURCE, "ip saddr")],
            Self::Arp => [frame, arp],
            Self::ArpSaid => [(NETWORK_HEADER, ARP_HARDWARE_SENDER, "arp saddr ether"), arp],
        }
    }
}

impl Rules for Sources {
    fn id(&self) -> TableId {
        TableId { family: FAMILY_BRIDGE, name: self.name.clone() }
    }

    fn batch(&self) -> Vec<Message> {
        let mut batch = encode::gone(FAMILY_BRIDGE, &self.name);
        batch.push(self.change(libc::NFT_MSG_NEWTABLE));
        batch.push(self.set());
        let keys: Vec<Vec<u8>> = self.pool.addresses().map(|address| self.key(address)).collect();
        batch.extend(keys.chunks(ELEMENTS_MAX).map(|keys| self.elements(keys)));
        batch.push(
            self.change(libc::NFT_MSG_NEWCHAIN)
                .text(3, CHAIN)
                .nest(4, &[], |place| place.be32(1, HOOK).be32(2, PRIORITY.cast_unsigned()))
                .be32(5, VERDICT_ACCEPT)
                .text(7, "filter"),
        );
        batch.extend(Sender::ALL.map(|sender| self.rule(sender.row(), |list| self.sent_by_another(list, sender))));
        batch.push(self.rule("other", |list| {
            let list = compare(meta(list, META_INPUT_NAME), CMP_EQUAL, self.pool.port_prefix().as_bytes());
            [libc::ETH_P_IP, libc::ETH_P_ARP].into_iter().fold(list, |list, known| protocol(list, CMP_UNEQUAL, known))
        }));
        batch.push(self.rule("mac", |list| {
            let list = compare(meta(list, META_INPUT_NAME), CMP_UNEQUAL, self.pool.port_prefix().as_bytes());
            let sender = load(list, LINK_HEADER, ETHERNET_SOURCE, MAC_BYTES);
            compare(masked(sender, &self.mac_mask()), CMP_EQUAL, &Mac::of(self.pool.subnet.network).0)
        }));
        batch.push(encode::end());
        batch
    }
}

impl Sources {
    fn change(&self, kind: i32) -> Message {
        encode::change_in(FAMILY_BRIDGE, kind).text(1, &self.name)
    }

    fn set(&self) -> Message {
        let key_type = KEY_TYPES.into_iter().fold(0, |all, each| all << TYPE_BITS | each);
        self.change(libc::NFT_MSG_NEWSET)
            .text(2, SET)
            .be32(3, 0)
            .be32(4, key_type)
            .be32(5, u32::try_from(KEY_BYTES).unwrap_or_default())
            .be32(10, SET_ID)
    }

    fn elements(&self, keys: &[Vec<u8>]) -> Message {
        self.change(libc::NFT_MSG_NEWSETELEM).text(2, SET).be32(4, SET_ID).nest(3, &[], |list| {
            keys.iter().fold(list, |list, key| list.nest(1, &[], |element| element.nest(1, &[], |data| data.attr(1, key))))
        })
    }

    /// Port, hardware address and address of a pod as compared, each padded with zeros to a multiple of four bytes.
    fn key(&self, address: Ipv4Addr) -> Vec<u8> {
        let mut key = self.pool.port(address).into_bytes();
        key.resize(libc::IFNAMSIZ, 0);
        key.extend(self.pool.mac(address).0);
        key.extend([0; 2]);
        key.extend(address.octets());
        key
    }

    fn rule(&self, row: &str, matches: impl FnOnce(Message) -> Message) -> Message {
        let list = |list| add_fate(matches(list), Fate::Drop);
        self.change(libc::NFT_MSG_NEWRULE).text(2, CHAIN).nest(4, &[], list).attr(7, &encode::comment(row))
    }

    fn sent_by_another(&self, list: Message, sender: Sender) -> Message {
        let list = compare(meta(list, META_INPUT_NAME), CMP_EQUAL, self.pool.port_prefix().as_bytes());
        let list = meta(protocol(list, CMP_EQUAL, sender.protocol().1), META_INPUT_NAME);
        let [(mac_header, mac, _), (header, address, _)] = sender.fields();
        let list = load_into(list, REGISTER_MAC, mac_header, mac, MAC_BYTES);
        let list = load_into(list, REGISTER_ADDRESS, header, address, ADDRESS_BYTES);
        expression(list, "lookup", |lookup| lookup.text(1, SET).be32(2, REGISTER).be32(4, SET_ID).be32(5, LOOKUP_INVERTED))
    }

    /// Ones in the bits in which all hardware addresses of the network are the same.
    fn mac_mask(&self) -> [u8; 6] {
        let [a, b, c, d] = self.pool.subnet.mask().to_be_bytes();
        [0xff, 0xff, a, b, c, d]
    }
}

fn protocol(list: Message, operator: u32, number: i32) -> Message {
    compare(meta(list, META_PROTOCOL), operator, &u16::try_from(number).unwrap_or_default().to_be_bytes())
}

fn load_into(list: Message, register: u32, header: u32, offset: u32, length: u32) -> Message {
    expression(list, "payload", |load| load.be32(1, register).be32(2, header).be32(3, offset).be32(4, length))
}

fn masked(list: Message, mask: &[u8; 6]) -> Message {
    expression(list, "bitwise", |bits| {
        bits.be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, MAC_BYTES)
            .nest(4, &[], |data| data.attr(1, mask))
            .nest(5, &[], |data| data.attr(1, &[0; 6]))
    })
}

/// The table as a file for `nft -f`.
impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.pool.port_prefix();
        writeln!(f, "table bridge {} {{", self.name)?;
        writeln!(f, "\tset {SET} {{")?;
        writeln!(f, "\t\ttype ifname . ether_addr . ipv4_addr")?;
        let pod = |address| format!("\"{}\" . {} . {address}", self.pool.port(address), self.pool.mac(address));
        writeln!(f, "\t\telements = {{ {} }}", self.pool.addresses().map(pod).collect::<Vec<_>>().join(", "))?;
        writeln!(f, "\t}}")?;
        writeln!(f, "\tchain {CHAIN} {{")?;
        writeln!(f, "\t\ttype filter hook {CHAIN} priority {PRIORITY}; policy accept;")?;
        for sender in Sender::ALL {
            let ([(.., mac), (.., address)], (protocol, _)) = (sender.fields(), sender.protocol());
            let key = format!("iifname . {mac} . {address}");
            writeln!(f, "\t\tiifname \"{ports}*\" meta protocol {protocol} {key} != @{SET} counter drop comment \"{}\"", sender.row())?;
        }
        writeln!(f, "\t\tiifname \"{ports}*\" meta protocol != ip meta protocol != arp counter drop comment \"other\"")?;
        let (mask, wanted) = (Mac(self.mac_mask()), Mac::of(self.pool.subnet.network));
        writeln!(f, "\t\tiifname != \"{ports}*\" ether saddr & {mask} == {wanted} counter drop comment \"mac\"")?;
        writeln!(f, "\t}}")?;
        writeln!(f, "}}")
    }
}
