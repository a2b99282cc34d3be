//! The write-ahead log's files: the data directory, the operations of the writer on direct I/O, and recovery.
//!
//! ```text
//!   start:  directory (lock, what is there) ─▶ plan ─▶ per core: recovery ─▶ Shard      -LOADING meanwhile
//!   then:   Engine's Writer ─▶ operations ─┬─ write, sync ───▶ the core's own ring ─┬─▶ done ─▶ Engine
//!                                          └─ make, remove ─▶ driver (executor) ─────┘
//! ```
//!
//! All on the same direct-I/O files, which the driver opens.

pub mod core_log;
pub mod directory;
pub mod driver;
pub mod inspect;
pub mod recovery;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::config::{Config, WalRecover, WalSync};
use crate::limits;
use crate::request::Durability;
use crate::wal::survey::Survey;
use crate::wal::writer::WriterConfig;
use directory::Layout;

/// What a server's log is to be like, and what was found in its directory. Shared by all cores.
pub struct Plan {
    pub directory: PathBuf,
    pub durability: Durability,
    pub async_ms: u64,
    pub salvage: bool,
    /// The layout to recover from, if there is one.
    pub old: Option<Layout>,
    /// Whether the layout is written anew: the number of cores has changed, or damage is left behind.
    pub rewrites: bool,
    pub cores: u32,
    pub progress: LoadProgress,
    /// What the ends of the old logs say of transactions, by old core.
    pub surveys: Mutex<BTreeMap<u32, Survey>>,
}

/// How far recovery has come on all cores.
#[derive(Default)]
pub struct LoadProgress {
    pub bytes_total: AtomicU64,
    pub bytes: AtomicU64,
    pub records: AtomicU64,
    pub changes: AtomicU64,
    /// Cores that have seen what the logs say of transactions, that have read everything, and those that are ready to serve.
    pub surveyed: AtomicUsize,
    pub read: AtomicUsize,
    pub written: AtomicUsize,
    pub ready: AtomicUsize,
    pub failed: AtomicUsize,
}

impl LoadProgress {
    pub fn all(&self, counted: &AtomicUsize, cores: u32) -> bool {
        counted.load(Ordering::Acquire) == cores as usize
    }
}

impl Plan {
    pub fn layout(&self) -> u32 {
        match &self.old {
            Some(old) if !self.rewrites => old.number,
            Some(old) => old.number + 1,
            None => 1,
        }
    }

    /// Where this layout's files are written: aside, until all cores have theirs.
    pub fn files_directory(&self) -> PathBuf {
        directory::layout_path(&self.directory, self.layout(), self.is_new())
    }

    pub fn is_new(&self) -> bool {
        self.old.is_none() || self.rewrites
    }

    pub fn writer_config(&self, core: u32) -> WriterConfig {
        WriterConfig {
            layout: self.layout(),
            core,
            cores: self.cores,
            segment_bytes: limits::WAL_SEGMENT_BYTES,
            write_bytes_max: limits::WAL_WRITE_BYTES_MAX,
            write_delay_us: limits::WAL_WRITE_DELAY_MS.min(self.async_ms / 2) * 1000,
            sync_interval_us: (self.durability != Durability::None).then_some(self.async_ms * 1000),
            backlog_bytes_max: limits::WAL_BACKLOG_BYTES_MAX,
            retry_us: limits::WAL_RETRY_MS * 1000,
        }
    }
}

/// Makes the plan: locks the directory and looks at what is there. Changes nothing but the lock file.
pub fn plan(config: &Config, cores: u32) -> Result<Option<(Arc<Plan>, directory::Lock)>, String> {
    let Some(directory) = config.data_dir.clone() else { return Ok(None) };
    let salvage = config.wal_recover == WalRecover::Salvage;
    let lock = directory::Lock::take(&directory)?;
    let old = directory::newest_layout(&directory, salvage)?;
    let is_damaged = old.as_ref().is_some_and(|layout| !layout.unreadable.is_empty());
    let rewrites = old.as_ref().is_some_and(|old| old.cores != cores) || is_damaged || salvage && old.is_some();
    if let Some(old) = old.as_ref().filter(|old| old.cores != cores) {
        tracing::info!("the log was written by {} cores and is divided anew among {cores}", old.cores);
    }
    let plan = Plan {
        durability: match config.wal_sync {
            WalSync::None => Durability::None,
            WalSync::Async => Durability::Async,
            WalSync::Sync => Durability::Sync,
        },
        async_ms: config.wal_async_ms,
        salvage,
        directory,
        old,
        rewrites,
        cores,
        progress: LoadProgress::default(),
        surveys: Mutex::default(),
    };
    if plan.is_new() {
        directory::begin_layout(&plan.files_directory())?;
    }
    Ok(Some((Arc::new(plan), lock)))
}
