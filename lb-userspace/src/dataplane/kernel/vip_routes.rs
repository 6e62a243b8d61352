//! Local routes for VIPs ("AnyIP"): `local 198.51.100.10 dev lo table local`.
//!
//! With such a route the kernel takes packets to a VIP for its own although no interface has the
//! address, and sk_lookup finds the listener although no socket is bound to it. Our routes carry
//! a protocol number of their own, by which they are known again after a restart; what others
//! made is never touched.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use serde::Serialize;

use super::KernelError;

/// The routing protocol number of our routes: `ip route show table local proto 197`. Free in
/// iproute2's rt_protos, above those of the known routing daemons.
pub const PROTOCOL: u8 = 197;

const LOCAL_TABLE: u32 = 255;

/// What [`ensure`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Addresses that got a route.
    pub added: Vec<IpAddr>,
    /// Addresses whose route was removed.
    pub removed: Vec<IpAddr>,
}

/// Makes every address local: adds routes for those that aren't yet and removes ours for those
/// that are no longer asked for. With an empty list it removes all of ours. Idempotent; works in
/// the network namespace of the calling thread and needs a tokio runtime.
///
/// # Errors
/// No rights, or no netlink.
pub async fn ensure(addresses: &[IpAddr]) -> Result<Changed, KernelError> {
    let all = |reason: &dyn std::fmt::Display| route_error("all VIPs", reason);
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| all(&e))?;
    let connection = tokio::spawn(connection);
    let result = ensure_with(&handle, addresses).await;
    connection.abort();
    result
}

async fn ensure_with(handle: &Handle, addresses: &[IpAddr]) -> Result<Changed, KernelError> {
    let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let present = local_routes(handle).await?;
    let mut changed = Changed::default();
    for route in present.iter().filter(|route| route.ours && !wanted.contains(&route.address)) {
        let message = message(route.address)?;
        let deleted = handle.route().del(message).execute().await;
        deleted.map_err(|e| route_error(&route.address.to_string(), &e))?;
        changed.removed.push(route.address);
    }
    for address in wanted {
        if present.iter().any(|route| route.covers(address)) {
            continue;
        }
        let added = handle.route().add(message(address)?).execute().await;
        added.map_err(|e| route_error(&address.to_string(), &e))?;
        changed.added.push(address);
    }
    Ok(changed)
}

struct LocalRoute {
    address: IpAddr,
    prefix: u8,
    ours: bool,
}

impl LocalRoute {
    fn covers(&self, address: IpAddr) -> bool {
        ipnet::IpNet::new(self.address, self.prefix).is_ok_and(|net| net.contains(&address))
    }
}

async fn local_routes(handle: &Handle) -> Result<Vec<LocalRoute>, KernelError> {
    let filters =
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    let mut routes = Vec::new();
    for filter in filters {
        let mut dump = handle.route().get(filter).execute();
        while let Some(route) = dump.try_next().await.map_err(|e| route_error("all VIPs", &e))? {
            routes.extend(local_route(&route));
        }
    }
    Ok(routes)
}

fn local_route(route: &RouteMessage) -> Option<LocalRoute> {
    if route.header.kind != RouteType::Local || u32::from(route.header.table) != LOCAL_TABLE {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let ours = u8::from(route.header.protocol) == PROTOCOL;
    Some(LocalRoute { address, prefix: route.header.destination_prefix_length, ours })
}

fn message(address: IpAddr) -> Result<RouteMessage, KernelError> {
    let lo = if_nametoindex("lo").map_err(|e| route_error("lo", &e))?;
    let protocol = RouteProtocol::Other(PROTOCOL);
    Ok(match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .scope(RouteScope::Host)
            .output_interface(lo)
            .table_id(LOCAL_TABLE)
            .protocol(protocol)
            .kind(RouteType::Local)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .output_interface(lo)
            .table_id(LOCAL_TABLE)
            .protocol(protocol)
            .kind(RouteType::Local)
            .build(),
    })
}

fn route_error(address: &str, reason: &dyn std::fmt::Display) -> KernelError {
    KernelError::Route { address: address.to_owned(), reason: reason.to_string() }
}
