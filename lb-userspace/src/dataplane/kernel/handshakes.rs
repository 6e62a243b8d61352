//! TCP handshakes by XDP: what they take, and whether this node has it.
//!
//! XDP answers SYNs with cookies of the kernel's own making. The stack takes a connection over in one of
//! two ways ([`Version`]): by the kernel's function `bpf_sk_assign_tcp_reqsk`, called by the program
//! `ingress`; or by checking the cookie itself. aya knows no calls of kernel functions: in the object the
//! call has a number that no helper has, which [`link`] replaces.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::{fmt, fs};

use aya::maps::{Array, MapData};
use aya::programs::SchedClassifier;
use aya::{Btf, Ebpf};
use aya_obj::btf::BtfKind;
use lb_common::cookie::{CookieSettings, OFFER_SACK, OFFER_SCALE, OFFER_STAMPS, STACK_CHECKS};
use lb_common::maps::{PROGRAM_ADMIT, PROGRAM_LOOK};
use serde::Serialize;

use super::next::Next;
use super::tc::{self, Direction};
use super::{KernelError, Settings, program, take, verify};

const FUNCTION: &str = "bpf_sk_assign_tcp_reqsk";

/// `call 0x7f000001` in BPF's encoding: lb-ebpf's placeholder.
const PLACEHOLDER: [u8; 8] = [0x85, 0, 0, 0, 0x01, 0, 0, 0x7f];

/// BPF_PSEUDO_KFUNC_CALL, where the second byte has the source register.
const KERNEL_FUNCTION: u8 = 2 << 4;

/// The function's id in the kernel's BTF; `None`: there is none.
fn function_id() -> Option<u32> {
    // Reading the kernel's BTF takes a while, and it does not change.
    static ID: OnceLock<Option<u32>> = OnceLock::new();
    *ID.get_or_init(|| Btf::from_sys_fs().ok()?.id_by_type_name_kind(FUNCTION, BtfKind::Func).ok())
}

/// The object with its calls of the kernel's function in place, as far as this kernel has it. Without
/// it, the program that calls it is refused, and no other.
pub(super) fn link(object: &[u8]) -> Cow<'_, [u8]> {
    let Some(id) = function_id() else { return Cow::Borrowed(object) };
    let mut linked = object.to_vec();
    for instruction in linked.chunks_exact_mut(PLACEHOLDER.len()) {
        if instruction == PLACEHOLDER {
            instruction[1] = KERNEL_FUNCTION;
            instruction[4..].copy_from_slice(&id.to_le_bytes());
        }
    }
    Cow::Owned(linked)
}

/// How the stack takes over connections whose handshake XDP did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// It checks the cookie as one of its own. Clients without TCP timestamps get no window scaling and
    /// no selective acknowledgements, and two settings of the network namespace have to be other than
    /// usual: see [`supported`].
    V1,
    /// It is told by `bpf_sk_assign_tcp_reqsk` (Linux 6.9).
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// How this network namespace's stack can take over connections whose handshake XDP did: the asked for
/// way, or else the best.
///
/// # Errors
/// What is missing, and the remedy.
pub fn supported(asked: Option<Version>) -> Result<Version, String> {
    match asked {
        Some(Version::V1) => v1().map(|()| Version::V1),
        Some(Version::V2) => v2().map(|()| Version::V2),
        None => v2().map(|()| Version::V2).or_else(|no_v2| match v1() {
            Ok(()) => Ok(Version::V1),
            Err(no_v1) => Err(format!("v2: {no_v2}; v1: {no_v1}")),
        }),
    }
}

fn v2() -> Result<(), String> {
    if function_id().is_none() {
        return Err(format!("this kernel's BTF has no {FUNCTION}: it takes Linux 6.9 or newer, with BTF"));
    }
    match sysctl("ipv4/tcp_syncookies") {
        Some(0) => Err("net.ipv4.tcp_syncookies is 0: sysctl -w net.ipv4.tcp_syncookies=1".to_owned()),
        _ => Ok(()),
    }
}

/// With other cookies than always the stack doesn't believe that it gave any, and with other timestamps
/// than without a secret XDP's are not the ones that it goes on with.
fn v1() -> Result<(), String> {
    let wrong: Vec<_> = ["tcp_syncookies", "tcp_timestamps"]
        .into_iter()
        .filter_map(|name| match sysctl(&format!("ipv4/{name}")) {
            Some(2) => None,
            is => Some((name, is.map_or_else(|| "unknown".to_owned(), |value| value.to_string()))),
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let is: Vec<_> = wrong.iter().map(|(name, value)| format!("net.ipv4.{name} is {value}")).collect();
    let remedy: String = wrong.iter().map(|(name, _)| format!(" net.ipv4.{name}=2")).collect();
    Err(format!("{}: sysctl -w{remedy}", is.join(" and ")))
}

pub(super) struct Handshakes {
    settings: Array<MapData, CookieSettings>,
    asked: Option<Version>,
    /// Whether XDP can answer SYNs, and if not, why.
    loaded: Result<(), String>,
    /// The same of the program that calls the kernel's function.
    ingress: Result<(), String>,
    attached: Option<bool>,
}

impl Handshakes {
    /// Loads the programs. Where that can't be, everything else works all the same.
    pub(super) fn take(
        programs: &mut Ebpf,
        next: &mut Next,
        asked: Option<Version>,
    ) -> Result<Self, KernelError> {
        let settings = take(programs, "COOKIES")?;
        let mut loaded = Ok(());
        // The last first: none is to go on to what is not there.
        for (name, place) in [("look", PROGRAM_LOOK), ("admit", PROGRAM_ADMIT)] {
            if loaded.is_ok() {
                loaded = next.load(programs, name, place)?.map_err(|error| error.to_string());
            } else {
                // An earlier daemon's, which could do more.
                next.clear(place)?;
            }
        }
        let ingress = v2().and_then(|()| load_ingress(programs).map_err(|error| error.to_string()));
        Ok(Self { settings, asked, loaded, ingress, attached: None })
    }

    /// How the stack takes connections over at present; and if it can't, why.
    pub(super) fn ready(&self) -> Result<Version, KernelError> {
        let version = self.loaded.clone().and_then(|()| match (supported(self.asked)?, &self.ingress) {
            (Version::V2, Err(why)) if self.asked.is_none() => {
                supported(Some(Version::V1)).map_err(|no_v1| format!("v2: {why}; v1: {no_v1}"))
            }
            (Version::V2, Err(why)) => Err(why.clone()),
            (version, _) => Ok(version),
        });
        version.map_err(KernelError::NoHandshakes)
    }

    /// Makes everything ready for handshakes, or says why that can't be.
    pub(super) fn begin(&mut self, programs: &mut Ebpf, settings: &Settings) -> Result<(), KernelError> {
        let version = self.ready()?;
        let offer = offer(&settings.interface, version);
        if self.settings.get(&0, 0).ok() != Some(offer) {
            self.settings.set(0, offer, 0).map_err(KernelError::map("COOKIES"))?;
        }
        if version == Version::V1 {
            return self.end(settings);
        }
        if self.attached != Some(true) {
            let ingress: &mut SchedClassifier = program(programs, "ingress")?;
            if let Some((interface, error)) = tc::attach(ingress, settings, Direction::Ingress)? {
                let why =
                    format!("{interface} takes no program at its ingress (that takes Linux 6.6): {error}");
                return Err(KernelError::NoHandshakes(why));
            }
            self.attached = Some(true);
        }
        Ok(())
    }

    /// Nobody needs the program at the ingress any more.
    pub(super) fn end(&mut self, settings: &Settings) -> Result<(), KernelError> {
        if self.attached != Some(false) {
            tc::detach(settings, Direction::Ingress)?;
            self.attached = Some(false);
        }
        Ok(())
    }
}

fn load_ingress(programs: &mut Ebpf) -> Result<(), KernelError> {
    let ingress: &mut SchedClassifier = program(programs, "ingress")?;
    verify(|| ingress.load()).map_err(KernelError::program("ingress"))
}

/// What this network namespace's stack would say in a handshake on these interfaces.
fn offer(interfaces: &[String], version: Version) -> CookieSettings {
    const ETHERNET: i64 = 1500;
    let mtu = |name: &String| sysctl(&format!("ipv6/conf/{name}/mtu"));
    let mtu = interfaces.iter().filter_map(mtu).min().unwrap_or(ETHERNET);
    let size = |headers: i64| u16::try_from(mtu - headers).unwrap_or(u16::MAX).max(536);
    let offers = [
        ("ipv4/tcp_window_scaling", OFFER_SCALE),
        ("ipv4/tcp_sack", OFFER_SACK),
        ("ipv4/tcp_timestamps", OFFER_STAMPS),
    ];
    let on = offers.into_iter().filter(|(name, _)| sysctl(name) != Some(0)).map(|(_, flag)| flag);
    let offers = on.sum::<u32>() | if version == Version::V1 { STACK_CHECKS } else { 0 };
    CookieSettings { mss4: size(40), mss6: size(60), scale: scale(), offers }
}

/// The window scale that the kernel chooses for itself (`tcp_select_initial_window`).
fn scale() -> u32 {
    let largest = |text: String| text.split_whitespace().last().and_then(|word| word.parse::<u64>().ok());
    let receive = fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").ok().and_then(largest);
    let space =
        receive.unwrap_or(0).max(sysctl("core/rmem_max").and_then(|n| u64::try_from(n).ok()).unwrap_or(0));
    space.checked_ilog2().unwrap_or(0).saturating_sub(15).min(14)
}

/// The first number of a setting of this thread's network namespace.
fn sysctl(name: &str) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_placeholder_is_replaced() {
        let mut object = vec![0x85, 0, 0, 0, 0x02, 0, 0, 0];
        object.extend(PLACEHOLDER);
        object.extend([1, 2, 3]);
        let linked = link(&object);
        let expect = match function_id() {
            None => object.clone(),
            Some(id) => {
                let call = [&[0x85, 0x20, 0, 0][..], &id.to_le_bytes()].concat();
                [&object[..8], &call, &object[16..]].concat()
            }
        };
        assert_eq!(*linked, *expect);
    }

    #[test]
    fn the_object_has_a_call_to_replace() {
        let calls = super::super::OBJECT.chunks_exact(8).filter(|call| *call == PLACEHOLDER).count();
        assert_eq!(calls, 1, "lb-ebpf's ingress calls it once");
    }
}
