//! The data directory: whose it is, which layout is valid, which files belong to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::wal::reader::{PEEK_BYTES, SegmentFile};
use crate::wal::segment::HeaderError;

const LOCK: &str = "LOCK";

/// Held as long as the process uses the directory.
pub struct Lock(#[allow(dead_code, reason = "closing it gives the lock back")] File);

impl Lock {
    pub fn take(directory: &Path) -> Result<Lock, String> {
        let shown = directory.display();
        fs::create_dir_all(directory).map_err(|error| format!("--data-dir {shown} cannot be made: {error}"))?;
        let path = directory.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| format!("--data-dir {shown} is not writable: {error}"))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(fs::TryLockError::WouldBlock) => {
                Err(format!("--data-dir {shown} is in use by another process: give this one a directory of its own"))
            }
            Err(fs::TryLockError::Error(error)) => Err(format!("--data-dir {shown} cannot be locked: {error}")),
        }
    }
}

/// One valid layout and its files.
#[derive(Clone, Debug)]
pub struct Layout {
    pub number: u32,
    pub path: PathBuf,
    pub cores: u32,
    /// By core, in no order.
    pub segments: BTreeMap<u32, Vec<SegmentFile>>,
    /// By core: files without a header yet.
    pub blank: BTreeMap<u32, Vec<u32>>,
    /// Files whose header is damaged; only salvage goes on with them.
    pub unreadable: Vec<PathBuf>,
    /// Everything in it that is not of use any more: older layouts, unfinished ones.
    pub stale: Vec<PathBuf>,
}

pub fn layout_path(directory: &Path, number: u32, is_new: bool) -> PathBuf {
    directory.join(format!("log-{number:06}{}", if is_new { ".new" } else { "" }))
}

pub fn file_name(core: u32, file: u32) -> String {
    format!("{core:04}-{file:06}.wal")
}

fn parse_file_name(name: &str) -> Option<(u32, u32)> {
    let (core, file) = name.strip_suffix(".wal")?.split_once('-')?;
    Some((core.parse().ok()?, file.parse().ok()?))
}

/// The layout to recover from. None in a directory that holds no log.
pub fn newest_layout(directory: &Path, salvage: bool) -> Result<Option<Layout>, String> {
    let unreadable = |error: io::Error| format!("--data-dir {} cannot be read: {error}", directory.display());
    let (mut layouts, mut stale) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(rest) = name.strip_prefix("log-") else { continue };
        match rest.parse::<u32>() {
            Ok(number) => layouts.push((number, path)),
            Err(_) if rest.ends_with(".new") => stale.push(path),
            Err(_) => {}
        }
    }
    layouts.sort();
    let Some((number, path)) = layouts.pop() else {
        return Ok(None);
    };
    stale.extend(layouts.into_iter().map(|(_, path)| path));
    read_layout(number, path, stale, salvage).map(Some)
}

pub fn read_layout(number: u32, path: PathBuf, stale: Vec<PathBuf>, salvage: bool) -> Result<Layout, String> {
    let mut layout = Layout {
        number,
        cores: 0,
        segments: BTreeMap::new(),
        blank: BTreeMap::new(),
        unreadable: Vec::new(),
        stale,
        path,
    };
    let failed = |path: &Path, error: io::Error| format!("{} cannot be read: {error}", path.display());
    for entry in fs::read_dir(&layout.path).map_err(|error| failed(&layout.path, error))? {
        let file_path = entry.map_err(|error| failed(&layout.path, error))?.path();
        let name = file_path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some((core, file)) = parse_file_name(&name) else { continue };
        let mut bytes = Vec::with_capacity(PEEK_BYTES);
        let opened = File::open(&file_path).map_err(|error| failed(&file_path, error))?;
        opened.take(PEEK_BYTES as u64).read_to_end(&mut bytes).map_err(|error| failed(&file_path, error))?;
        match SegmentFile::peek(file, &bytes) {
            Ok(segment) if segment.header.core == core && segment.header.layout == number => {
                layout.cores = segment.header.cores;
                layout.segments.entry(core).or_default().push(segment);
            }
            Ok(segment) => {
                let header = segment.header;
                return Err(format!(
                    "{} says that it is of core {} and layout {}: it was moved or renamed, put it back",
                    file_path.display(),
                    header.core,
                    header.layout
                ));
            }
            // A file that was being made when the server ended holds nothing.
            Err(HeaderError::Blank) => layout.blank.entry(core).or_default().push(file),
            Err(HeaderError::Unreadable) if bytes.len() < PEEK_BYTES => {
                layout.blank.entry(core).or_default().push(file);
            }
            Err(HeaderError::Unreadable) if salvage => layout.unreadable.push(file_path),
            Err(error) => {
                let help = match error {
                    HeaderError::Newer(_) => "",
                    _ => "; --wal-recover salvage keeps what can be read",
                };
                return Err(format!("{}: {error}{help}", file_path.display()));
            }
        }
    }
    if let Some(core) = (0..layout.cores).find(|core| !layout.segments.contains_key(core))
        && !salvage
    {
        return Err(format!(
            "{}: the files of core {core} of {} are missing; --wal-recover salvage goes on without them",
            layout.path.display(),
            layout.cores
        ));
    }
    Ok(layout)
}

/// Makes an empty directory for a new layout; what an earlier start left of one is of no use.
pub fn begin_layout(path: &Path) -> Result<(), String> {
    let made = match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir(path),
    };
    made.map_err(|error| format!("--data-dir: {} cannot be made: {error}", path.display()))
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What changes the names in a data directory. A crash may come before any of it.
pub trait Names {
    fn sync(&mut self, directory: &Path) -> io::Result<()>;
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&mut self, directory: &Path) -> io::Result<()>;
}

/// Those of the file system.
pub struct FileSystem;

impl Names for FileSystem {
    fn sync(&mut self, directory: &Path) -> io::Result<()> {
        sync_directory(directory)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, directory: &Path) -> io::Result<()> {
        fs::remove_dir_all(directory)
    }
}

/// The new layout is whole: from here on it is the one that counts.
pub fn make_valid(names: &mut impl Names, directory: &Path, number: u32) -> io::Result<()> {
    names.sync(&layout_path(directory, number, true))?;
    names.rename(&layout_path(directory, number, true), &layout_path(directory, number, false))?;
    names.sync(directory)
}

/// Removes what recovery was not asked for; with salvage the old layout is kept aside for whoever wants to look.
pub fn clean(names: &mut impl Names, directory: &Path, old: &Layout, replaced: bool, keep: bool) -> io::Result<()> {
    for path in &old.stale {
        // The one that was just made valid was among them if an earlier start had left it unfinished.
        match names.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if replaced {
        if keep {
            let aside = directory.join(format!("damaged-{:06}", old.number));
            names.rename(&old.path, &aside)?;
            tracing::warn!("the damaged log is kept in {}: remove it when nobody wants to look", aside.display());
        } else {
            names.remove(&old.path)?;
        }
    }
    names.sync(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::{Header, VERSION};

    /// Does so much, and then fails.
    struct Failing {
        left: usize,
        renames: usize,
    }

    impl Failing {
        fn may(&mut self) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
            Ok(())
        }
    }

    impl Names for Failing {
        fn sync(&mut self, directory: &Path) -> io::Result<()> {
            self.may()?;
            FileSystem.sync(directory)
        }

        fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
            self.may()?;
            self.renames += 1;
            FileSystem.rename(from, to)
        }

        fn remove(&mut self, directory: &Path) -> io::Result<()> {
            self.may()?;
            FileSystem.remove(directory)
        }
    }

    fn write_layout(directory: &Path, layout: u32, is_new: bool, cores: u32) {
        let path = layout_path(directory, layout, is_new);
        fs::create_dir_all(&path).unwrap();
        for core in 0..cores {
            let header = Header {
                version: VERSION,
                segment_bytes: 16 << 20,
                number: 1,
                oldest_needed: 0,
                created_ms: 0,
                layout,
                core,
                cores,
            };
            fs::write(path.join(file_name(core, 0)), header.to_block()).unwrap();
        }
    }

    /// Two cores become three, and that ends before each of its steps: what is found is the old layout or the new one,
    /// with all their files, and the next start brings it to its end.
    #[test]
    fn a_layout_is_found_whole_wherever_its_replacement_ends() {
        for keep in [false, true] {
            let mut steps = 0;
            loop {
                let directory =
                    std::env::temp_dir().join(format!("crabcache-layouts-{}-{keep}-{steps}", std::process::id()));
                let _ = fs::remove_dir_all(&directory);
                write_layout(&directory, 1, false, 1);
                write_layout(&directory, 2, false, 2);
                write_layout(&directory, 3, true, 3);
                let old = newest_layout(&directory, false).unwrap().unwrap();
                assert_eq!((old.number, old.stale.len()), (2, 2));
                let mut names = Failing { left: steps, renames: 0 };
                let replaced = make_valid(&mut names, &directory, 3)
                    .and_then(|()| clean(&mut names, &directory, &old, true, keep));
                let found = newest_layout(&directory, false).unwrap().unwrap();
                let expected = if names.renames > 0 { 3 } else { 2 };
                assert_eq!((found.number, found.cores), (expected, expected), "after {steps} steps");
                assert_eq!(found.segments.len(), expected as usize);
                if expected == 3 {
                    clean(&mut FileSystem, &directory, &found, false, keep).unwrap();
                    let found = newest_layout(&directory, false).unwrap().unwrap();
                    assert_eq!((found.number, found.stale.len()), (3, 0));
                }
                fs::remove_dir_all(&directory).unwrap();
                steps += 1;
                if replaced.is_ok() {
                    break;
                }
            }
            assert_eq!(steps, 8, "seven steps to fail at, and then none");
        }
    }
}
