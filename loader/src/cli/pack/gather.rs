//! The files of a folder → samples, by WebDataset's names or by ImageFolder's folders.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use walkdir::WalkDir;

use super::super::failure::Failure;
use super::{Labels, tar};
use crate::dataset::webdataset::split_name;

/// What torchvision's ImageFolder takes for an image.
const IMAGES: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// Names given as examples of many.
const EXAMPLES: usize = 5;

/// Everything that will be packed, in the order of keys.
#[derive(Debug)]
pub(super) struct Dataset {
    pub(super) samples: Vec<SampleFiles>,
    /// The classes, in the order of their numbers, where labels come from folders.
    pub(super) classes: Option<Vec<String>>,
    pub(super) skipped: Tally,
    pub(super) renamed: Tally,
}

/// A number of things and a few of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) examples: Vec<String>,
}

impl Tally {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// One sample: its key and its members, as they will be in the archive.
#[derive(Debug)]
pub(super) struct SampleFiles {
    pub(super) key: Vec<u8>,
    pub(super) members: Vec<MemberFile>,
}

#[derive(Debug)]
pub(super) struct MemberFile {
    pub(super) suffix: Vec<u8>,
    pub(super) size: u64,
    pub(super) content: Content,
}

/// Where a member's data is.
#[derive(Debug)]
pub(super) enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl SampleFiles {
    pub(super) fn name(&self, member: &MemberFile) -> Vec<u8> {
        [&self.key, &b"."[..], &member.suffix].concat()
    }

    /// Bytes of its data.
    pub(super) fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.size).sum()
    }

    /// Bytes that it takes in an archive.
    pub(super) fn tar_bytes(&self) -> u64 {
        let name = |member: &MemberFile| self.key.len() + 1 + member.suffix.len();
        let bytes = |member| tar::header_bytes(name(member)) + member.size.next_multiple_of(tar::BLOCK);
        self.members.iter().map(bytes).sum()
    }
}

/// A file of the folder.
struct Found {
    /// Its path below the folder.
    relative: Vec<u8>,
    path: PathBuf,
    size: u64,
}

/// Finds the samples of `folder`, until `stop` says so.
pub(super) fn gather(
    folder: &Path,
    output: &Path,
    labels: Labels,
    stop: &dyn Fn() -> bool,
) -> Result<Dataset, Failure> {
    refuse_output_inside(folder, output)?;
    let mut skipped = Tally::default();
    let files = walk(folder, &mut skipped, stop)?;
    let by_folders = match labels {
        Labels::Folders => true,
        Labels::None => false,
        Labels::Auto => looks_like_image_folder(&files),
    };
    let mut renamed = Tally::default();
    let (members, classes) = if by_folders {
        let classes = classes(folder, &files)?;
        (labelled(files, &classes, &mut skipped, &mut renamed)?, Some(classes))
    } else {
        (named(files, &mut skipped, &mut renamed), None)
    };
    let samples = group(members, classes.is_some())?;
    if samples.is_empty() {
        return Err(Failure::failed(format!(
            "{} holds no sample ({} files were passed over): a sample is one or more files with a suffix, such as 0001.jpg and \
             0001.cls",
            folder.display(),
            skipped.count
        )));
    }
    Ok(Dataset { samples, classes, skipped, renamed })
}

fn refuse_output_inside(folder: &Path, output: &Path) -> Result<(), Failure> {
    let unreadable = |error| Failure::io(format_args!("{} can't be read", folder.display()), &error);
    let folder_path = folder.canonicalize().map_err(unreadable)?;
    if !folder_path.is_dir() {
        return Err(Failure::failed(format!(
            "{} is not a folder; name the one that holds the files",
            folder.display()
        )));
    }
    let whole = std::path::absolute(output).unwrap_or_else(|_| output.into());
    // What exists of the output's path decides where it lies.
    let existing = whole.ancestors().find_map(|path| path.canonicalize().ok());
    if existing.is_some_and(|path| path.starts_with(&folder_path)) {
        return Err(Failure::Usage(format!(
            "OUTPUT {} lies inside of {}: shards would be packed again; choose a folder outside",
            output.display(),
            folder.display()
        )));
    }
    Ok(())
}

fn walk(folder: &Path, skipped: &mut Tally, stop: &dyn Fn() -> bool) -> Result<Vec<Found>, Failure> {
    let mut files = Vec::new();
    let mut walk = WalkDir::new(folder).min_depth(1).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        if stop() {
            return Err(Failure::Interrupted("nothing was packed, and nothing is left behind"));
        }
        let entry = entry
            .map_err(|error| Failure::failed(format!("{} can't be listed: {error}", folder.display())))?;
        let relative =
            entry.path().strip_prefix(folder).unwrap_or(entry.path()).as_os_str().as_bytes().to_vec();
        let is_dir = entry.file_type().is_dir();
        if entry.file_name().as_bytes().starts_with(b".") {
            skipped.add(|| lossy(&relative));
            if is_dir {
                walk.skip_current_dir();
            }
        } else if entry.file_type().is_file() {
            let meta = entry.metadata().map_err(|error| Failure::failed(format!("{error}")))?;
            files.push(Found { relative, size: meta.len(), path: entry.into_path() });
        } else if !is_dir {
            skipped.add(|| lossy(&relative));
        }
    }
    Ok(files)
}

/// True where all that is there are single images in folders.
fn looks_like_image_folder(files: &[Found]) -> bool {
    let mut keys = std::collections::HashSet::new();
    let fits = |file: &Found| {
        file.relative.contains(&b'/')
            && is_image(&file.relative)
            && keys.insert(stem(&file.relative).to_vec())
    };
    !files.is_empty() && files.iter().all(fits)
}

/// The class folders, by name. As torchvision does, one without images is an error: numbers would shift when it gets some.
fn classes(folder: &Path, files: &[Found]) -> Result<Vec<String>, Failure> {
    let with_images: std::collections::HashSet<&[u8]> = files
        .iter()
        .filter(|file| is_image(&file.relative))
        .filter_map(|file| class_of(&file.relative))
        .collect();
    let mut classes = Vec::new();
    for entry in WalkDir::new(folder).min_depth(1).max_depth(1).follow_links(true).sort_by_file_name() {
        let entry = entry
            .map_err(|error| Failure::failed(format!("{} can't be listed: {error}", folder.display())))?;
        let name = entry.file_name();
        if !entry.file_type().is_dir() || name.as_bytes().starts_with(b".") {
            continue;
        }
        let problem = match name.to_str() {
            None => "its name is not UTF-8, which classes.json must be; rename it",
            Some(name) if name.starts_with("__") && name.ends_with("__") => {
                "readers of shards skip names like this one; rename it"
            }
            Some(_) if !with_images.contains(name.as_bytes()) => {
                "it holds no image, so it is no class; remove it, or give --labels none"
            }
            Some(name) => {
                classes.push(name.to_owned());
                continue;
            }
        };
        return Err(Failure::failed(format!("class folder {}: {problem}", entry.path().display())));
    }
    if classes.is_empty() {
        return Err(Failure::failed(format!(
            "{} has no class folders; --labels folders needs FOLDER/class/image.jpg",
            folder.display()
        )));
    }
    Ok(classes)
}

/// A member before grouping.
struct Member {
    key: Vec<u8>,
    file: MemberFile,
    /// What it is called in the folder, for messages.
    origin: Vec<u8>,
}

/// Images in class folders: a sample each, with its label.
fn labelled(
    files: Vec<Found>,
    classes: &[String],
    skipped: &mut Tally,
    renamed: &mut Tally,
) -> Result<Vec<Member>, Failure> {
    let numbers: HashMap<&[u8], usize> =
        classes.iter().enumerate().map(|(number, name)| (name.as_bytes(), number)).collect();
    let mut members = Vec::new();
    for file in files {
        let number = class_of(&file.relative).and_then(|class| numbers.get(class));
        let (Some(number), true) = (number, is_image(&file.relative)) else {
            skipped.add(|| lossy(&file.relative));
            continue;
        };
        // Every image is a sample of its own: a dot in its name does not end the key.
        let stem = stem(&file.relative);
        let base = stem.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let dotless = stem.iter().enumerate().map(|(at, &b)| if at >= base && b == b'.' { b'_' } else { b });
        let key = nameable(&dotless.collect::<Vec<_>>());
        if key != stem {
            renamed.add(|| format!("{} → {}", lossy(&file.relative), lossy(&key)));
        }
        let suffix = file.relative[stem.len() + 1..].to_ascii_lowercase();
        let label = number.to_string().into_bytes();
        let label =
            MemberFile { suffix: b"cls".to_vec(), size: label.len() as u64, content: Content::Bytes(label) };
        let image = MemberFile { suffix, size: file.size, content: Content::File(file.path) };
        members.push(Member { key: key.clone(), file: image, origin: file.relative.clone() });
        members.push(Member { key, file: label, origin: file.relative });
    }
    Ok(members)
}

/// Files whose names say which sample they belong to.
fn named(files: Vec<Found>, skipped: &mut Tally, renamed: &mut Tally) -> Vec<Member> {
    let mut members = Vec::new();
    for file in files {
        let Some((key, suffix)) = split_name(&file.relative).filter(|(_, suffix)| !suffix.is_empty()) else {
            skipped.add(|| lossy(&file.relative));
            continue;
        };
        let (key, suffix) = (nameable(key), nameable(suffix));
        if key.len() + 1 + suffix.len() != file.relative.len()
            || !file.relative.starts_with(&key)
            || !file.relative.ends_with(&suffix)
        {
            renamed.add(|| format!("{} → {}.{}", lossy(&file.relative), lossy(&key), lossy(&suffix)));
        }
        let content = Content::File(file.path);
        members.push(Member {
            key,
            file: MemberFile { suffix, size: file.size, content },
            origin: file.relative,
        });
    }
    members
}

/// Neighbours with the same key are a sample; two of the same suffix are an error that names both.
fn group(mut members: Vec<Member>, labelled: bool) -> Result<Vec<SampleFiles>, Failure> {
    // Stable: a label stays behind its image.
    members.sort_by(|a, b| {
        let suffix = |member: &Member| if labelled { Vec::new() } else { member.file.suffix.clone() };
        a.key.cmp(&b.key).then_with(|| suffix(a).cmp(&suffix(b)))
    });
    let mut samples: Vec<SampleFiles> = Vec::new();
    let mut origins: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for member in members {
        if samples.last().is_none_or(|sample| sample.key != member.key) {
            samples.push(SampleFiles { key: member.key.clone(), members: Vec::new() });
            origins.clear();
        }
        let suffix = member.file.suffix.to_ascii_lowercase();
        let twice = origins.insert(suffix, member.origin.clone());
        // An image of the same name and another format would share the key.
        let other = twice.or_else(|| {
            let foreign = |origin: &&Vec<u8>| labelled && **origin != member.origin;
            origins.values().find(foreign).cloned()
        });
        if let Some(other) = other {
            return Err(Failure::failed(format!(
                "{:?} and {:?} would both be {:?} of the sample {:?}; rename one of them",
                lossy(&other),
                lossy(&member.origin),
                if labelled { "the image".into() } else { lossy(&member.file.suffix) },
                lossy(&member.key)
            )));
        }
        if let Some(sample) = samples.last_mut() {
            sample.members.push(member.file);
        }
    }
    Ok(samples)
}

/// White space, which sidecars separate names by, becomes '_'.
fn nameable(name: &[u8]) -> Vec<u8> {
    let space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
    name.iter().map(|&byte| if space(byte) { b'_' } else { byte }).collect()
}

fn class_of(relative: &[u8]) -> Option<&[u8]> {
    relative.iter().position(|&byte| byte == b'/').map(|slash| &relative[..slash])
}

/// A path without its last suffix.
fn stem(relative: &[u8]) -> &[u8] {
    let suffix = Path::new(OsStr::from_bytes(relative)).extension().map_or(0, |suffix| suffix.len() + 1);
    &relative[..relative.len() - suffix]
}

fn is_image(relative: &[u8]) -> bool {
    let suffix = Path::new(OsStr::from_bytes(relative)).extension().and_then(OsStr::to_str);
    suffix.is_some_and(|suffix| IMAGES.contains(&suffix.to_ascii_lowercase().as_str()))
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
