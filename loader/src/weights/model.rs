//! An open model: one version of each of its files, pinned, with their headers read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_cache::memory::Arena;
use forebay_cache::{ByteRange, Lease, ObjectMeta};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::device::Bridge;
use super::files::Beside;
use super::find::{Folder, Found, Index, Named, find, wrong};
use super::ground::Ground;
use super::header::{Header, LENGTH_BYTES, Tensor};
use super::layout::{Placement, Want, groups};
use super::load::{Loading, Reader};
use super::pins::Pin;
use super::slice::Part;
use super::slots::{SLOT_BYTES, Slots};
use super::source::{Came, Source};
use crate::error::{Error, Result};
use crate::options::CacheSettings;
use crate::stop::Stop;
use crate::whole::{TooLarge, check_room};

/// Headers that are read at once.
const HEADERS_AT_ONCE: usize = 16;
/// What of a file is read first: most headers fit.
const FIRST_BYTES: u64 = 1 << 20;
/// Slots of reads whose tensors are copied to their places.
const MOST_SLOTS: usize = 16;

/// What a model is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A file, a folder or an index, or several files.
    pub urls: Vec<String>,
    /// The cache, and the options of its stores.
    pub cache: CacheSettings,
    /// Whether local files go through the cache too, as those of a slow mount may; otherwise they are read where they lie.
    pub cache_local: bool,
}

/// A model of one version: what its files were when it was opened is what is read, or an error.
#[derive(Debug)]
pub struct Weights {
    files: Vec<File>,
    tensors: Vec<Place>,
    pub(super) reader: Arc<Reader>,
    pub(super) ground: Ground,
    pub(super) folder: Option<Folder>,
    gathering: Mutex<Option<Slots>>,
    /// The way to the device that tensors went to last.
    pub(super) bridge: Mutex<Option<Arc<Bridge>>>,
    pub(super) beside: Beside,
    _pins: Vec<Pin>,
}

/// A file of a model.
#[derive(Debug)]
pub struct File {
    /// Its name in its folder; of files of several folders whose names are the same, the URL.
    pub name: String,
    /// The version of it that is read.
    pub object: Arc<ObjectMeta>,
    /// What it says of its tensors.
    pub header: Header,
}

/// Which tensor of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    file: usize,
    tensor: usize,
}

/// One tensor, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its number among [`Weights::tensors`].
    pub tensor: usize,
    /// One range of indexes for each dimension; none: all of it.
    pub part: Option<Vec<std::ops::Range<u64>>>,
}

impl Weights {
    /// Finds the files, notes their versions, and reads and checks their headers.
    ///
    /// # Errors
    /// [`Error::Weights`] for a file or an index that isn't what it should be; whatever opening the cache and asking the origin give.
    pub fn open(settings: &Settings, stop: &Stop) -> Result<Self> {
        let ground = Ground::new(settings)?;
        let Found { files: named, folder, index } =
            ground.until(stop, find(&settings.urls, &*ground.origin))?;
        let opened = ground.until(stop, Self::read_headers(&ground, named, index.as_ref()))?;
        let (mut files, mut sources, mut pins) = (Vec::new(), Vec::new(), Vec::new());
        for (named, source, header) in opened {
            if let (Some(session), Source::Cached(_, object)) = (&ground.session, &source) {
                pins.push(Pin::new(session, object));
            }
            files.push(File { name: named.name, object: source.object().clone(), header });
            sources.push(source);
        }
        let (tensors, names) = places(&files)?;
        if let Some(index) = &index {
            check_index(index, &files, &tensors, &names)?;
        }
        say_if_too_large(&sources, settings.cache.limit_bytes);
        let reader = Arc::new(Reader::new(sources, ground.handle.clone()));
        Ok(Self {
            files,
            tensors,
            reader,
            ground,
            folder,
            gathering: Mutex::default(),
            bridge: Mutex::default(),
            beside: Beside::default(),
            _pins: pins,
        })
    }

    async fn read_headers(
        ground: &Ground,
        named: Vec<Named>,
        index: Option<&Index>,
    ) -> Result<Vec<(Named, Source, Header)>> {
        let large = Semaphore::new(1);
        let open = async |named: Named| {
            let source = match ground.source(&named.location).await {
                Err(Error::Cache(forebay_cache::Error::NotFound { .. })) if index.is_some() => {
                    let at = index.map_or(&named.location, |index| &index.location);
                    return Err(wrong(at, format!("it names {:?}, which is not there", named.name)));
                }
                source => source?,
            };
            let header = read_header(&source, &ground.handle, &large).await?;
            Ok::<_, Error>((named, source, header))
        };
        stream::iter(named.into_iter().map(open)).buffered(HEADERS_AT_ONCE).try_collect().await
    }

    /// Its files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Its tensors, in the order of files and of bytes in them, with the number of the file that each is in.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (usize, &Tensor)> {
        self.tensors.iter().map(|place| (place.file, &self.files[place.file].header.tensors[place.tensor]))
    }

    /// Bytes of its tensors.
    pub fn data_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.header.data_bytes()).sum()
    }

    /// Bytes that came so far, by where they came from.
    pub fn came(&self) -> &Came {
        &self.reader.came
    }

    /// Starts to bring tensors to host memory, in the order of files and of bytes in them; members of what comes name places in `wanted`. Leases
    /// have memory that is used again when they are let go, as far as so many bytes as are read ahead have room.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no tensor or no part of one; in a forked child.
    pub fn load(&self, wanted: &[Wanted], ahead_bytes: u64, leases: bool) -> Result<Loading> {
        let wants = Arc::new(self.wants(wanted)?);
        let groups = groups(&wants, Placement::Host);
        let gathers = groups.iter().any(|group| group.range.is_none() && group.bytes > 0);
        let slots = if gathers { Some(self.gathering()?) } else { None };
        Ok(self.reader.start(groups, wants, slots, ahead_bytes, leases))
    }

    /// Slots for tensors that are copied to their places in host memory: of all loads together, since none of them waits for a consumer.
    fn gathering(&self) -> Result<Slots> {
        let mut kept = self.gathering.lock();
        if let Some(slots) = &*kept {
            return Ok(slots.clone());
        }
        let (slots, _, _) = self.ground.slots(MOST_SLOTS, 0, 0)?;
        Ok(kept.insert(slots).clone())
    }

    /// What is wanted, in the order in which it is read.
    pub(super) fn wants(&self, wanted: &[Wanted]) -> Result<Vec<Want>> {
        self.ground.check_process()?;
        let mut wants = wanted
            .iter()
            .enumerate()
            .map(|(number, Wanted { tensor, part })| {
                let place = self.tensors.get(*tensor).ok_or_else(|| {
                    Error::config(format!("tensor {tensor} is none of the model's {}", self.tensors.len()))
                })?;
                let tensor = &self.files[place.file].header.tensors[place.tensor];
                let part = match part {
                    None => Part::whole(tensor),
                    Some(part) => Part::new(tensor, part)
                        .map_err(|error| Error::config(format!("tensor {:?}: {error}", tensor.name)))?,
                };
                Ok(Want { number, file: place.file, part, element: tensor.dtype.bits() / 8 })
            })
            .collect::<Result<Vec<_>>>()?;
        wants.sort_by_key(|want| (want.file, want.part.start(), want.number));
        Ok(wants)
    }
}

/// What is cached of a model may be more than the folder takes: it is read all the same, and each time anew.
fn say_if_too_large(sources: &[Source], limit_bytes: u64) {
    let cached = |source: &Source| match source {
        Source::Cached(_, object) => Some(object.clone()),
        Source::Local(_) => None,
    };
    let objects: Vec<_> = sources.iter().filter_map(cached).collect();
    if let Err(TooLarge { bytes, .. }) = check_room(&objects, limit_bytes) {
        tracing::warn!(
            "the model's files take {bytes} bytes, and cache_limit is {limit_bytes}: what finds no room is fetched again each time"
        );
    }
}

/// Where each tensor is; an error where a name stands in two files.
fn places(files: &[File]) -> Result<(Vec<Place>, HashMap<String, usize>)> {
    let (mut places, mut names) = (Vec::new(), HashMap::new());
    for (file, File { header, object, .. }) in files.iter().enumerate() {
        for (tensor, Tensor { name, .. }) in header.tensors.iter().enumerate() {
            if let Some(before) = names.insert(name.clone(), places.len()) {
                let before: &Place = &places[before];
                let other = &files[before.file].object.location;
                return Err(wrong(
                    &object.location,
                    format!("tensor {name:?} is in {other} too: which is meant nobody can tell"),
                ));
            }
            places.push(Place { file, tensor });
        }
    }
    Ok((places, names))
}

/// Every tensor is in the file that the index says.
fn check_index(
    index: &Index,
    files: &[File],
    tensors: &[Place],
    names: &HashMap<String, usize>,
) -> Result<()> {
    let numbers: BTreeMap<_, _> =
        files.iter().enumerate().map(|(number, file)| (&*file.name, number)).collect();
    for (tensor, file) in &index.tensors {
        let place = names.get(tensor).map(|&place| tensors[place].file);
        if place.is_none() || place != numbers.get(&**file).copied() {
            let found = place
                .map_or("no file has it".to_owned(), |place| format!("it is in {:?}", files[place].name));
            return Err(wrong(
                &index.location,
                format!("tensor {tensor:?} is said to be in {file:?}, and {found}"),
            ));
        }
    }
    Ok(())
}

/// The header of a file. One that is larger than what is read first is read and parsed while no other such is: it may have 100 MB, and takes a
/// multiple of that for a moment, which nothing else bounds.
async fn read_header(source: &Source, handle: &Handle, large: &Semaphore) -> Result<Header> {
    let object = source.object();
    let refused = |error: super::HeaderError| Error::Weights {
        location: object.location.clone(),
        offset: Some(0),
        what: error.to_string(),
    };
    let first = read(source, handle, ByteRange::new(0, object.size_bytes.min(FIRST_BYTES))).await?;
    let range = Header::range(&first, object.size_bytes);
    // A zip archive, as torch.save writes them now, or a pickle's first two bytes. Lengths of headers may be such numbers too.
    let pickled = first.starts_with(b"PK\x03\x04") || matches!(first.first_chunk(), Some([0x80, 2..=5]));
    if pickled && (range.is_err() || first.get(LENGTH_BYTES as usize) != Some(&b'{')) {
        return Err(super::find::pickle(&object.location));
    }
    let range = range.map_err(refused)?;
    let in_first = (range.end as usize).min(first.len());
    let mut json = first[LENGTH_BYTES as usize..in_first].to_vec();
    drop(first);
    let _turn;
    if in_first < range.end as usize {
        _turn = large.acquire().await.map_err(|_| Error::Closed)?;
        json.extend_from_slice(&read(source, handle, ByteRange::new(in_first as u64, range.end)).await?);
    }
    Header::parse(&json, object.size_bytes).map_err(refused)
}

/// Some bytes of a file, block by block.
async fn read(source: &Source, handle: &Handle, range: ByteRange) -> Result<Vec<u8>> {
    let arena = Arena::new(SLOT_BYTES as u64)?;
    let region = arena.region("headers", SLOT_BYTES)?;
    let mut bytes = Vec::with_capacity(range.len() as usize);
    for index in range.blocks() {
        let part = range.intersect(source.object().block_range(index));
        let read: Lease = source.read(handle, part, &region, &Came::default()).await?;
        bytes.extend_from_slice(&read);
    }
    Ok(bytes)
}
