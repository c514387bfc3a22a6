//! Every byte of a checkpoint against its commit.

use std::io::Read;

use eagleray_base::{Crc32c, Error, Kind, Result};
use eagleray_store::Store;

use crate::format::{Commit, File};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// A rank's share of the work: each file is verified by one rank.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The rank.
    pub rank: usize,
    /// Ranks in all.
    pub world: usize,
}

impl Share {
    /// The whole.
    pub const ALL: Self = Self { rank: 0, world: 1 };

    /// The files of this rank: dealt out by size, the largest first, to whoever has the least.
    fn files<'a>(&self, commit: &'a Commit) -> Vec<&'a File> {
        let mut by_size: Vec<&File> = commit.files.iter().collect();
        by_size.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
        let mut loads = vec![0_u64; self.world.max(1)];
        let mut mine = Vec::new();
        for file in by_size {
            let least = (0..loads.len()).min_by_key(|&rank| (loads[rank], rank)).unwrap_or(0);
            loads[least] += file.bytes;
            if least == self.rank {
                mine.push(file);
            }
        }
        mine
    }
}

/// Reads the files of a share and compares size and checksum with the commit; returns the bytes read.
///
/// # Errors
/// `Corrupt` naming the first file that is missing, short, long or altered.
pub fn verify(store: &Store, commit: &Commit, share: Share, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    let mut total = 0;
    for file in share.files(commit) {
        verify_file(store, &commit.dir, file, progress)?;
        total += file.bytes;
    }
    Ok(total)
}

fn verify_file(store: &Store, dir: &str, file: &File, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let path = format!("{dir}/{}", file.name);
    let url = store.url_of(&path);
    let damaged = |what: String| {
        Error::corrupt(format!("`{url}`: {what}")).with_hint(format!(
            "delete `{}` to go on from the checkpoint before it, or restore the file",
            store.url_of(dir)
        ))
    };
    let mut reader = match store.reader(&path) {
        Ok(reader) => reader,
        Err(error) if error.kind() == Kind::NotFound => return Err(damaged("is missing".to_owned())),
        Err(error) => return Err(error),
    };
    let mut crc = Crc32c::default();
    let mut bytes = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count =
            reader.read(&mut chunk).map_err(|error| Error::from(error).at(format_args!("`{url}`")))?;
        if count == 0 {
            break;
        }
        crc.update(&chunk[..count]);
        bytes += count as u64;
        progress(count as u64);
    }
    if bytes != file.bytes {
        return Err(damaged(format!("expected {} bytes, found {bytes}", file.bytes)));
    }
    if crc.value() != file.crc32c {
        return Err(damaged(format!("expected crc32c {:08x}, found {:08x}", file.crc32c, crc.value())));
    }
    Ok(())
}
