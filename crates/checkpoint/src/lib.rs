//! Checkpoint place, lineage, commit and verification.
//!
//! A save is a folder of files, a *segment* per rank that lists what the rank wrote, and one *commit* that
//! makes it real:
//!
//! ```text
//! checkpoints/step-000001200/0001-0007/__0_0.distcp …     files, whatever engine wrote them
//!                                     /segment-00000.json  what rank 0 wrote: name, bytes, crc32c
//!                                     /COMMIT              written last, by a conditional put
//! ```
//!
//! The folder is named by step, attempt and save, so two drivers never write to one path. A checkpoint exists
//! when its commit exists: a save that died is invisible to every reader, and each file is checked against the
//! commit before it is loaded.
//!
//! Why not `latest` files or folder renames: neither is atomic on S3, and both have a moment in which a
//! reader sees half a checkpoint.
//!
//! ```
//! use eagleray_checkpoint as checkpoint;
//! use eagleray_store::Store;
//!
//! let store = Store::open("memory://checkpoint-guide")?;
//! let dir = checkpoint::next_save(&store, 1, 1200)?;
//! let mut writer = store.writer(&format!("{dir}/weights"))?;
//! writer.push(b"bytes")?;
//! let written = writer.finish()?;
//! let file = checkpoint::File { name: "weights".to_owned(), bytes: written.bytes, crc32c: written.crc32c };
//! checkpoint::write_segment(&store, &dir, &checkpoint::Segment { rank: 0, files: vec![file] })?;
//! checkpoint::commit(&store, &dir, checkpoint::Fields::new("torch.dcp", 1200, 1))?;
//! assert_eq!(checkpoint::newest(&store)?.expect("a commit").dir, dir);
//! # Ok::<(), eagleray_base::Error>(())
//! ```
//!
//! Map: [`place`] names of folders · [`format`] commits and segments as bytes · [`save`] the protocol ·
//! [`lineage`] which commit is the newest · [`verify`] checksums · [`retain`] what is kept and what goes.

pub mod format;
pub mod lineage;
pub mod place;
pub mod retain;
pub mod save;
pub mod verify;

pub use format::{Commit, Fields, File, Segment, read_commit};
pub use lineage::{Save, SaveState, list, newest};
pub use place::Place;
pub use retain::{Keep, sweep};
pub use save::{commit, next_save, write_segment};
pub use verify::{Share, verify};

#[cfg(test)]
mod tests;
