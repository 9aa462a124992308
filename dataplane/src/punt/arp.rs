//! ARP (RFC 826): the gateway tells its Ethernet address. Answers for nobody else.

use crate::rewrite::set_macs;
use smoltcp::wire::{ArpOperation, ArpPacket, EthernetAddress};
use tables::{Addr, Mac};

/// Turns an ARP request for the gateway into its answer.
pub fn answer_arp(bytes: &mut [u8], gateway: Addr, gateway_mac: Mac) -> bool {
    let Ok(mut arp) = ArpPacket::new_checked(&mut bytes[14..]) else { return false };
    let is_ethernet_v4 = arp.hardware_len() == 6 && arp.protocol_len() == 4;
    if !is_ethernet_v4 || arp.operation() != ArpOperation::Request || arp.target_protocol_addr() != gateway.v4_octets()
    {
        return false;
    }
    let (asker_mac, asker) = (mac_of(arp.source_hardware_addr()), v4_of(arp.source_protocol_addr()));
    arp.set_operation(ArpOperation::Reply);
    arp.set_source_hardware_addr(&gateway_mac.0);
    arp.set_source_protocol_addr(&gateway.v4_octets());
    arp.set_target_hardware_addr(&asker_mac.0);
    arp.set_target_protocol_addr(&asker);
    set_macs(bytes, gateway_mac, asker_mac);
    true
}

fn mac_of(bytes: &[u8]) -> Mac {
    Mac(EthernetAddress::from_bytes(bytes).0)
}

fn v4_of(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or_default()
}
