//! Where commands work: the cache folder, its limits, the object stores; and how long (until Ctrl-C).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use forebay_cache::memory::Region;
use walkdir::WalkDir;

use super::failure::Failure;
use super::interrupt::Interrupt;
use crate::catalog::{Catalog, Shards, resolve};
use crate::options::CacheSettings;
use crate::report::Reporter;
use crate::session::Session;
use crate::size;

/// As the Python loader's default.
const DEFAULT_LIMIT_BYTES: u64 = 20_000_000_000;

/// Half of it is for blocks on their way: enough for 16 connections of 16 MiB each.
const DEFAULT_MEMORY: &str = "1GB";

/// Memory for reads of a command, and for indexes of shards.
const READS_BYTES: usize = 32 << 20;
const INDEX_BYTES: usize = 16 << 20;

/// Options of every command that works with a cache folder.
#[derive(Args, Debug)]
pub(super) struct CacheArguments {
    /// The cache folder [default: $FOREBAY_CACHE_DIR, or forebay/data in the user's cache folder]
    #[arg(long, value_name = "FOLDER", help_heading = "Cache")]
    pub(super) cache_dir: Option<PathBuf>,
    /// Most bytes that the folder may take, such as 500GiB [default: 20GB, or what the folder takes already where that is more]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = "Cache")]
    pub(super) cache_limit: Option<u64>,
    /// Most bytes of memory for data on its way
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = DEFAULT_MEMORY, help_heading = "Cache")]
    host_memory_limit: u64,
    /// An option of the object store, such as endpoint=http://127.0.0.1:8333; may be given several times
    #[arg(long = "storage-option", value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Cache")]
    storage_options: Vec<(String, String)>,
    /// How long to wait for another process that has the folder and says nothing
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30", help_heading = "Cache")]
    wait: Duration,
}

/// A wait that is neither nothing nor for ever.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds from 0.1 to 86400, such as 30".into())
}

/// Splits `key=value`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        // The text is not repeated: it may be a secret.
        _ => Err("write key=value, such as region=eu-west-1".into()),
    }
}

/// An open cache folder, and what else a command needs.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) session: Arc<Session>,
    pub(super) reporter: Reporter,
    /// With which a loader opens the same session.
    pub(super) settings: CacheSettings,
    pub(super) interrupt: &'a Interrupt,
}

impl<'a> Place<'a> {
    /// Opens the folder, making it where it doesn't exist.
    pub(super) fn open(arguments: &CacheArguments, interrupt: &'a Interrupt) -> Result<Self, Failure> {
        let dir = arguments.dir()?;
        let limit_bytes = arguments.cache_limit.unwrap_or_else(|| default_limit(&dir));
        Self::open_in(dir, limit_bytes, arguments, interrupt)
    }

    /// As [`Self::open`], with another folder and limit than the arguments say.
    pub(super) fn open_in(
        dir: PathBuf,
        limit_bytes: u64,
        arguments: &CacheArguments,
        interrupt: &'a Interrupt,
    ) -> Result<Self, Failure> {
        std::fs::create_dir_all(&dir).map_err(|error| {
            Failure::io(
                format_args!(
                    "the cache folder {} can't be made; choose another one with --cache-dir",
                    dir.display()
                ),
                &error,
            )
        })?;
        let settings = arguments.settings(dir, limit_bytes)?;
        let session = Session::open(&settings)?;
        Ok(Self { session, reporter: Reporter::default(), settings, interrupt })
    }

    /// Opens a folder that must hold a cache already: looking at one makes none.
    pub(super) fn open_existing(
        arguments: &CacheArguments,
        interrupt: &'a Interrupt,
    ) -> Result<Self, Failure> {
        let dir = arguments.dir()?;
        if !holds_cache(&dir) {
            return Err(Failure::failed(format!(
                "{} holds no cache; name the folder that a loader or `forebay prefetch` used, with --cache-dir",
                dir.display()
            )));
        }
        Self::open(arguments, interrupt)
    }

    /// Runs `work` to its end, or until the user interrupts; `left` then says what became of it.
    pub(super) fn run<T>(
        &self,
        left: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.session.block_on(async {
            tokio::select! {
                () = self.interrupt.wait() => Err(Failure::Interrupted(left)),
                done = work => done,
            }
        })
    }

    /// What the sources mean now.
    pub(super) async fn shards(&self, sources: &[String]) -> Result<Shards, Failure> {
        Ok(resolve(sources, self.session.cache(), self.session.origin(), &self.reporter).await?)
    }

    /// A catalog of these shards.
    pub(super) fn catalog(&self, shards: Shards) -> Result<Catalog, Failure> {
        let session = &self.session;
        let (cache, origins) = (session.cache().clone(), session.origins());
        Ok(Catalog::new(cache, origins, self.reads()?, self.reporter.clone(), shards, INDEX_BYTES))
    }

    /// Memory for a command's own reads.
    pub(super) fn reads(&self) -> Result<Region, Failure> {
        let arena = self.session.arena();
        Ok(arena.region("reads", READS_BYTES.min(arena.free_bytes() / 2))?)
    }
}

impl CacheArguments {
    /// What a session of `dir` is opened with.
    pub(super) fn settings(&self, dir: PathBuf, limit_bytes: u64) -> Result<CacheSettings, Failure> {
        let mut storage_options = BTreeMap::new();
        for (key, value) in &self.storage_options {
            if storage_options.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
                return Err(Failure::Usage(format!(
                    "--storage-option {key} is given twice with different values; keep one"
                )));
            }
        }
        Ok(CacheSettings {
            limit_bytes,
            dir,
            host_memory_limit_bytes: self.host_memory_limit,
            storage_options,
            patience: self.wait,
        })
    }

    /// The cache folder.
    pub(super) fn dir(&self) -> Result<PathBuf, Failure> {
        let found = self.cache_dir.clone().or_else(default_dir);
        found.filter(|dir| !dir.as_os_str().is_empty()).ok_or_else(|| {
            Failure::Usage(
                "there is no home folder to keep a cache in; name a folder with --cache-dir".into(),
            )
        })
    }
}

/// Where the Python loader keeps its cache too.
pub(super) fn default_dir() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("FOREBAY_CACHE_DIR").or_else(|| {
        let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
        Some(caches.join("forebay").join("data"))
    })
}

/// True for a folder with a cache in it.
pub(super) fn holds_cache(dir: &Path) -> bool {
    dir.join("index.redb").is_file()
}

/// The default limit, or what the folder takes already with room to work in: a command that was given no limit shrinks no cache that
/// was filled with a larger one.
pub(super) fn default_limit(dir: &Path) -> u64 {
    let used = allocated(dir);
    // 2 % is what eviction keeps free ahead of writes; the index counts twice.
    DEFAULT_LIMIT_BYTES.max(used.saturating_add(used / 20).saturating_add(64 << 20))
}

/// Bytes that the files of a folder take on disk.
pub(super) fn allocated(dir: &Path) -> u64 {
    let files = WalkDir::new(dir).into_iter().filter_map(Result::ok);
    let bytes = |entry: walkdir::DirEntry| {
        let index = entry.file_name() == OsStr::new("index.redb");
        entry.metadata().map_or(0, |meta| meta.blocks() * 512 * if index { 2 } else { 1 })
    };
    files.map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_needs_a_key_and_is_not_shown() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(!key_value("secret").unwrap_err().contains("secret"));
        assert!(key_value("=b").is_err());
    }

    #[test]
    fn a_wait_is_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "inf", "nan", "1e9", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_large_cache_is_not_shrunk_by_a_default() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(default_limit(dir.path()), DEFAULT_LIMIT_BYTES);
        std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        assert!(allocated(dir.path()) >= 100_000);
        assert!(!holds_cache(dir.path()));
    }
}
