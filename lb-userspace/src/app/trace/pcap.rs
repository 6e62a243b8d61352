//! Events as a capture file for Wireshark: pcapng, because it has room for a word on each frame and
//! for NICs by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

use super::event::{Event, Shown};

/// Times are in nanoseconds: ten to the power of minus this.
const NANOSECONDS: u8 = 9;

/// A capture file that grows. Each NIC is two in it: frames as they came, and, as `eth0 after`, those
/// that were changed as they went.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    /// The numbers that NICs have in the file.
    numbers: BTreeMap<String, u32>,
}

impl<W: Write> Capture<W> {
    /// Writes the file's head.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(writer: W) -> Result<Self, PcapError> {
        Ok(Self { writer: PcapNgWriter::new(writer)?, numbers: BTreeMap::new() })
    }

    /// Adds an event, and hands it on, so that a reader sees it at once.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, event: &Event) -> Result<(), PcapError> {
        let comment = format!("sluice: {} ({})", event.verdict, event.reason);
        self.frame(event, &event.interface, &event.came, comment)?;
        if let Some(went) = &event.went {
            let name = format!("{} after", event.interface);
            self.frame(event, &name, went, format!("sluice: after {} ({})", event.verdict, event.reason))?;
        }
        self.writer.get_mut().flush().map_err(PcapError::IoError)
    }

    fn frame(&mut self, event: &Event, nic: &str, frame: &Shown, comment: String) -> Result<(), PcapError> {
        let interface_id = self.number(nic)?;
        let since = Duration::try_from(event.time.as_duration()).unwrap_or_default();
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: since,
            original_len: frame.length,
            data: Cow::Owned(frame.bytes()),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        })?;
        Ok(())
    }

    fn number(&mut self, nic: &str) -> Result<u32, PcapError> {
        if let Some(number) = self.numbers.get(nic) {
            return Ok(*number);
        }
        self.writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(nic)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
        let number = self.numbers.len() as u32;
        self.numbers.insert(nic.to_owned(), number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::app::trace::event::tests::some;

    #[test]
    fn what_is_written_is_read() {
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file).expect("a head");
        let events = some();
        for event in &events {
            capture.add(event).expect("written");
        }
        let mut reader = PcapNgReader::new(&file[..]).expect("a file");
        let (mut nics, mut frames) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a block").into_owned() {
                Block::InterfaceDescription(nic) => nics.push(nic),
                Block::EnhancedPacket(frame) => frames.push(frame),
                other => panic!("{other:?}"),
            }
        }
        let names = nics.iter().flat_map(|nic| &nic.options).filter_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(&**name),
            _ => None,
        });
        assert_eq!(names.collect::<Vec<_>>(), ["eth0", "eth0 after"]);
        let numbers: Vec<_> = frames.iter().map(|frame| frame.interface_id).collect();
        assert_eq!(numbers, [0, 1, 0, 0]);
        assert_eq!(frames[0].data[..], events[0].came.bytes());
        assert_eq!((frames[0].original_len, frames[0].timestamp), (54, Duration::from_secs(3600)));
        let comment = |at: usize| match &frames[at].options[..] {
            [EnhancedPacketOption::Comment(text)] => text.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(comment(1), "sluice: after send (forwarded)");
        assert_eq!(comment(2), "sluice: drop (no_backend)");
    }
}
