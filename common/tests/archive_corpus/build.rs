//! Archives written byte by byte, so that they can say what no honest tool would.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `mebibytes` of zeros as gzip members of 16 MiB, of which one is packed and the others are its copies.
pub fn gz_of_zeros(mebibytes: usize) -> Vec<u8> {
    gz(&vec![0; 16 << 20]).repeat(mebibytes / 16)
}

/// One header of a tar with its content behind it.
#[derive(Clone)]
pub struct Tar {
    pub name: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub link: &'static str,
    pub content: Vec<u8>,
    /// Where it is not the content's length.
    pub size: Option<u64>,
}

impl Tar {
    pub fn of(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            mode: 0o644,
            link: "",
            content: Vec::new(),
            size: None,
        }
    }

    pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self {
            content: content.as_ref().to_vec(),
            ..Self::of(b'0', name)
        }
    }

    /// A PAX header of these records, for the entry that follows.
    pub fn pax(records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..9)
                .map(|digits| rest + digits)
                .find(|length| length.to_string().len() + rest == *length)
                .unwrap();
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        Self {
            content,
            ..Self::of(b'x', "PaxHeader")
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut block = [0; 512];
        let name = &self.name[..self.name.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        let mut put = |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, format!("{:07o}", self.mode));
        put(
            124,
            format!("{:011o}", self.size.unwrap_or(self.content.len() as u64)),
        );
        put(157, self.link.to_owned());
        put(257, "ustar\u{0}00".to_owned());
        put(148, " ".repeat(8));
        block[156] = self.kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let padding = self.content.len().next_multiple_of(512) - self.content.len();
        [&block, self.content.as_slice(), &vec![0; padding]].concat()
    }
}

pub fn tar(entries: &[Tar]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(Tar::bytes).collect();
    bytes.extend_from_slice(&[0; 1_024]);
    bytes
}

pub fn tar_gz(entries: &[Tar]) -> Vec<u8> {
    gz(&tar(entries))
}

/// An entry of a zip; what is none is told truly.
#[derive(Clone)]
pub struct Zip {
    pub name: Vec<u8>,
    pub content: Vec<u8>,
    pub mode: u32,
    pub flags: u16,
    pub method: u16,
    pub crc: Option<u32>,
    /// Unpacked, in the local header and in the directory.
    pub size: Option<u32>,
    /// In the local header alone.
    pub local_size: Option<u32>,
    /// In the local header alone.
    pub local_name: Option<&'static str>,
    /// The number of the entry whose bytes the directory names instead of its own.
    pub bytes_of: Option<usize>,
}

impl Zip {
    pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            content: content.as_ref().to_vec(),
            mode: 0o100_644,
            flags: 0,
            method: 8,
            crc: None,
            size: None,
            local_size: None,
            local_name: None,
            bytes_of: None,
        }
    }

    fn common(&self, packed: &[u8], size: u32, name: &[u8]) -> Vec<u8> {
        let crc = self.crc.unwrap_or_else(|| crc32fast::hash(&self.content));
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&20_u16.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.method.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes
    }

    fn packed(&self) -> Vec<u8> {
        if self.method != 8 {
            return self.content.clone();
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&self.content).unwrap();
        encoder.finish().unwrap()
    }
}

pub fn zip(entries: &[Zip]) -> Vec<u8> {
    zip_with_count(entries, entries.len())
}

pub fn zip_with_count(entries: &[Zip], count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    let mut places: Vec<(u32, Vec<u8>)> = Vec::new();
    for entry in entries {
        let (mut at, mut packed) = (u32::try_from(bytes.len()).unwrap(), entry.packed());
        let size = entry
            .size
            .unwrap_or_else(|| u32::try_from(entry.content.len()).unwrap());
        if let Some(other) = entry.bytes_of {
            (at, packed) = places[other].clone();
        } else {
            let name = entry.local_name.map_or(entry.name.as_slice(), str::as_bytes);
            bytes.extend_from_slice(b"PK\x03\x04");
            bytes.extend(entry.common(&packed, entry.local_size.unwrap_or(size), name));
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(&packed);
        }
        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend(entry.common(&packed, size, &entry.name));
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(entry.mode << 16).to_le_bytes());
        directory.extend_from_slice(&at.to_le_bytes());
        directory.extend_from_slice(&entry.name);
        places.push((at, packed));
    }
    let at = u32::try_from(bytes.len()).unwrap();
    let length = u32::try_from(directory.len()).unwrap();
    let count = u16::try_from(count).unwrap();
    bytes.extend(directory);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&at.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

/// The outer entry, stored, has the whole inner one in its content, and the directory names both.
pub fn zip_with_one_inside_another() -> Vec<u8> {
    let whole = zip(&[Zip::file("inner", "x".repeat(100))]);
    let central = whole.windows(4).position(|mark| mark == b"PK\x01\x02").unwrap();
    let inner = whole[..central].to_vec();
    let outer = Zip {
        method: 0,
        ..Zip::file("outer", &inner)
    };
    let mut archive = zip(&[outer, Zip::file("inner", "x".repeat(100))]);
    // the second directory entry is made to name the copy in the first one's content
    let second = archive
        .windows(4)
        .rposition(|mark| mark == b"PK\x01\x02")
        .unwrap();
    archive[second + 42..second + 46].copy_from_slice(&35_u32.to_le_bytes());
    archive
}
