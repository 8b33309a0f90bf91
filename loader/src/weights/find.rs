//! What a URL stands for: one file, or the files of a folder or of an index.
//!
//! A folder's weights are those that its `*.safetensors.index.json` names, or all its `*.safetensors`. Pickle files are refused wherever they
//! are met: reading them runs code that they bring along.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use forebay_cache::origin::{Origin, local_path, path_location, resolve};
use forebay_cache::{Location, ObjectMeta};
use futures::TryStreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};

const WEIGHTS: &str = ".safetensors";
const INDEX: &str = ".safetensors.index.json";
/// The index of a folder that has several.
const USUAL_INDEX: &str = "model.safetensors.index.json";
/// Names of files that are read by running them.
const PICKLES: [&str; 8] =
    [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin.index.json", ".pt.index.json"];
/// Bytes of an index at most: a tensor takes a hundred, and no model has ten million.
const MOST_INDEX_BYTES: u64 = 100_000_000;

/// What a model is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Its files, in the order of their names, or as they were given.
    pub(super) files: Vec<Named>,
    /// Where they were found with others: what lies beside them.
    pub(super) folder: Option<Folder>,
    /// The index, where there is one.
    pub(super) index: Option<Index>,
}

/// A file of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Relative to its folder; of files of several folders whose names are the same, the URL.
    pub(super) name: String,
    /// Where it is.
    pub(super) location: Location,
}

/// A folder, or a prefix of a store.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// With a slash at its end.
    pub(super) location: Location,
    /// Everything in it, by the name relative to it.
    pub(super) files: BTreeMap<String, ObjectMeta>,
}

/// Which file each tensor is in, as `*.safetensors.index.json` says.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// Where it says so.
    pub(super) location: Location,
    /// File by tensor.
    pub(super) tensors: BTreeMap<String, String>,
}

/// Finds what `urls` stand for.
pub(super) async fn find(urls: &[String], origin: &dyn Origin) -> Result<Found> {
    let (mut found, mut seen) = (Found::default(), HashSet::new());
    for url in urls {
        let one = find_one(url, origin).await?;
        for file in one.files {
            if !seen.insert(file.location.clone()) {
                return Err(Error::config(format!("{} is given twice", file.location)));
            }
            found.files.push(file);
        }
        if urls.len() == 1 {
            (found.folder, found.index) = (one.folder, one.index);
        }
    }
    if found.files.is_empty() {
        return Err(Error::config("no weights were given: name a .safetensors file, a folder, or an index"));
    }
    tell_apart(&mut found.files);
    Ok(found)
}

/// Where names are the same, files are told apart by their URLs, or by their places where those differ in queries alone, which nobody is shown.
fn tell_apart(files: &mut [Named]) {
    let alike =
        |files: &[Named]| files.iter().map(|file| &file.name).collect::<HashSet<_>>().len() < files.len();
    if alike(files) {
        files.iter_mut().for_each(|file| file.name = file.location.to_string());
    }
    if alike(files) {
        (1..).zip(files).for_each(|(place, file)| file.name = format!("{} ({place})", file.location));
    }
}

async fn find_one(url: &str, origin: &dyn Origin) -> Result<Found> {
    let location = resolve(url)?;
    let name = own_name(&location);
    if is_pickle(&name) {
        return Err(pickle(&location));
    }
    if name.ends_with(INDEX) {
        let index = Index::read(&location, origin).await?;
        let files = index.files(&parent(&location))?;
        return Ok(Found { files, index: Some(index), folder: None });
    }
    let is_file = match local_path(&location) {
        _ if url.ends_with('/') => false,
        Ok(path) => !path.is_dir(),
        Err(_) => name.ends_with(WEIGHTS) || location.without_query() != location.as_str(),
    };
    if is_file {
        return Ok(Found { files: vec![Named { name, location }], ..Found::default() });
    }
    let folder = Folder::list(&location, origin).await?;
    let index = match folder.index() {
        Some(name) => Some(Index::read(&folder.at(&name), origin).await?),
        None => None,
    };
    let files = match &index {
        Some(index) => index.files(&folder.location)?,
        None => folder.weights()?,
    };
    Ok(Found { files, index, folder: Some(folder) })
}

/// What a file is called where it lies: URLs of files and of HTTP have names percent-encoded, keys of stores are taken as they stand.
pub(super) fn own_name(location: &Location) -> String {
    let name = location.file_name();
    let encoded = location.is_http() || local_path(location).is_ok();
    if encoded { percent_decode_str(name).decode_utf8_lossy().into_owned() } else { name.to_owned() }
}

/// A file that is read by running it, by its name.
pub(super) fn is_pickle(name: &str) -> bool {
    PICKLES.iter().any(|suffix| name.ends_with(suffix))
}

pub(super) fn pickle(location: &Location) -> Error {
    let what = "it is a pickle file, which runs code when it is read; convert it: safetensors.torch.save_file(torch.load(path, weights_only=True), ...)";
    wrong(location, what.into())
}

/// Where a name of a folder of a store is: HTTP's are percent-encoded, so that no server takes a part of one for something else.
pub(super) fn within(folder: &Location, name: &str) -> Location {
    const PLAIN: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    if folder.is_http() {
        return Location::new(format!("{}{}", folder.as_str(), utf8_percent_encode(name, PLAIN)));
    }
    Location::new(format!("{}{name}", folder.as_str()))
}

/// The folder that a location is in, with its slash.
pub(super) fn parent(location: &Location) -> Location {
    let path = location.without_query();
    Location::new(&path[..=path.rfind('/').unwrap_or(path.len() - 1)])
}

/// A name that stays inside the folder that it is relative to, whatever system reads it.
pub(super) fn is_inside(name: &str) -> bool {
    let parts = || name.split(['/', '\\']);
    !name.is_empty()
        && !name.starts_with(['/', '\\'])
        && parts().all(|part| !part.is_empty() && part != "." && part != "..")
        && !name.contains(['\0', ':'])
}

impl Folder {
    async fn list(location: &Location, origin: &dyn Origin) -> Result<Self> {
        let slashed = format!("{}/", location.as_str().trim_end_matches('/'));
        let location = Location::new(slashed);
        let mut listed = origin.list(&location);
        let mut files = BTreeMap::new();
        while let Some(object) = listed.try_next().await? {
            if let Some(name) = object.location.as_str().strip_prefix(location.as_str())
                && !name.is_empty()
                && !name.ends_with('/')
            {
                let name = match local_path(&object.location) {
                    // Percent-encoded in the URL.
                    Ok(_) => percent_decode_str(name).decode_utf8_lossy().into_owned(),
                    Err(_) => name.to_owned(),
                };
                files.insert(name, object);
            }
        }
        drop(listed);
        if files.is_empty() {
            return Err(forebay_cache::Error::NotFound { location }.into());
        }
        Ok(Self { location, files })
    }

    /// Where a name of it is.
    pub(super) fn at(&self, name: &str) -> Location {
        let listed = self.files.get(name).map(|object| object.location.clone());
        listed.unwrap_or_else(|| within(&self.location, name))
    }

    /// Names that lie in it and in no folder below.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.files.keys().filter(|name| !name.contains('/'))
    }

    fn index(&self) -> Option<String> {
        let mut all = self.names().filter(|name| name.ends_with(INDEX));
        let usual = self.names().find(|name| *name == USUAL_INDEX);
        // Of several unusual ones none is meant: variants of one model.
        usual.or_else(|| all.next().filter(|_| all.next().is_none())).cloned()
    }

    fn weights(&self) -> Result<Vec<Named>> {
        let named = |name: &String| Named { name: name.clone(), location: self.at(name) };
        let files: Vec<_> = self.names().filter(|name| name.ends_with(WEIGHTS)).map(named).collect();
        if !files.is_empty() {
            return Ok(files);
        }
        let pickles = self.names().find(|name| is_pickle(name));
        Err(match pickles {
            Some(name) => pickle(&self.at(name)),
            None => Error::config(format!(
                "{} has no .safetensors file; it has {}",
                self.location,
                self.names().take(5).map(String::as_str).collect::<Vec<_>>().join(", ")
            )),
        })
    }
}

impl Index {
    async fn read(location: &Location, origin: &dyn Origin) -> Result<Self> {
        let object = origin.head(location).await?;
        if object.size_bytes > MOST_INDEX_BYTES {
            return Err(wrong(
                location,
                format!("it has {} bytes; {MOST_INDEX_BYTES} are the most", object.size_bytes),
            ));
        }
        let json = crate::catalog::fetch(origin, &object).await?;
        Self::parse(&json, location)
    }

    fn parse(json: &[u8], location: &Location) -> Result<Self> {
        #[derive(Deserialize)]
        struct Whole {
            weight_map: Map,
        }
        let whole: Whole = serde_json::from_slice(json).map_err(|error| {
            wrong(
                location,
                format!("it is no index of safetensors files, {{\"weight_map\": {{tensor: file}}}}: {error}"),
            )
        })?;
        let Map { tensors, twice } = whole.weight_map;
        if let Some((tensor, one, two)) = twice {
            return Err(wrong(
                location,
                format!("tensor {tensor:?} is said to be in two files, {one:?} and {two:?}"),
            ));
        }
        for (tensor, file) in &tensors {
            if !is_inside(file) {
                return Err(wrong(
                    location,
                    format!(
                        "tensor {tensor:?} is said to be in {file:?}, which is no file of the index's folder"
                    ),
                ));
            }
            if is_pickle(file) {
                return Err(pickle(&within(&parent(location), file)));
            }
        }
        Ok(Self { location: location.clone(), tensors })
    }

    /// The files that it names, each once, in the order of their names.
    fn files(&self, folder: &Location) -> Result<Vec<Named>> {
        let names: BTreeSet<_> = self.tensors.values().collect();
        if names.is_empty() {
            return Err(wrong(&self.location, "its weight_map is empty".into()));
        }
        let local = folder.as_str().starts_with("file://");
        let at = |name: &String| -> Result<Location> {
            if local {
                return Ok(path_location(&local_path(folder)?.join(name))?);
            }
            Ok(within(folder, name))
        };
        names.into_iter().map(|name| Ok(Named { name: name.clone(), location: at(name)? })).collect()
    }
}

pub(super) fn wrong(location: &Location, what: String) -> Error {
    Error::Weights { location: location.clone(), offset: None, what }
}

/// Files by tensor, and the first tensor that has two.
struct Map {
    tensors: BTreeMap<String, String>,
    twice: Option<(String, String, String)>,
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Map;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of file names by tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map, A::Error> {
                let mut read = Map { tensors: BTreeMap::new(), twice: None };
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if let Some(before) = read.tensors.insert(tensor.clone(), file.clone())
                        && before != file
                    {
                        read.twice.get_or_insert((tensor, before, file));
                    }
                }
                Ok(read)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Location {
        Location::new(format!("s3://models/llama/{name}"))
    }

    #[test]
    fn names_that_leave_their_folder_are_told() {
        for name in ["a.safetensors", "sub/b.safetensors", "..a", "a..safetensors"] {
            assert!(is_inside(name), "{name}");
        }
        for name in [
            "",
            "/etc/passwd",
            "../a",
            "sub/../../a",
            "a//b",
            "./a",
            "sub\\..\\..\\a",
            "c:a",
            "a\0",
            "s3://other/a",
        ] {
            assert!(!is_inside(name), "{name}");
        }
    }

    #[test]
    fn the_folder_of_a_signed_url_is_that_of_its_path() {
        let of = |url: &str| parent(&Location::new(url)).as_str().to_owned();
        assert_eq!(of("https://host/m/model.safetensors.index.json?sig=a/b"), "https://host/m/");
        assert_eq!(
            of("s3://models/what?/a.safetensors"),
            "s3://models/what?/",
            "keys may have any character"
        );
    }

    #[test]
    fn the_usual_index_counts_or_the_only_one() {
        let found = |names: &[&str]| {
            let file = |name: &&str| {
                let object = forebay_cache::ObjectMeta::new(at(name), 1, forebay_cache::Version::Modified(1));
                ((*name).to_owned(), object)
            };
            Folder { location: at(""), files: names.iter().map(file).collect() }.index()
        };
        let (usual, fp16, bf16) =
            (USUAL_INDEX, "model.fp16.safetensors.index.json", "model.bf16.safetensors.index.json");
        assert_eq!(found(&["a.safetensors"]), None);
        assert_eq!(found(&["a.safetensors", fp16]).as_deref(), Some(fp16));
        assert_eq!(found(&[fp16, bf16]), None, "variants of one model");
        assert_eq!(found(&[fp16, usual, bf16]).as_deref(), Some(usual));
    }

    #[test]
    fn a_name_is_one_on_a_server_too() {
        let at = |folder: &str| within(&Location::new(folder), "a b/%2e%2e/c?x#y.safetensors");
        assert_eq!(at("https://host/m/").as_str(), "https://host/m/a%20b/%252e%252e/c%3Fx%23y.safetensors");
        assert_eq!(at("s3://models/m/").as_str(), "s3://models/m/a b/%2e%2e/c?x#y.safetensors");
    }

    #[test]
    fn names_that_stand_twice_become_urls_and_those_places() {
        let told = |urls: [&str; 2]| {
            let mut files = urls.map(|url| {
                let location = Location::new(url);
                Named { name: own_name(&location), location }
            });
            tell_apart(&mut files);
            files.map(|file| file.name)
        };
        assert_eq!(told(["s3://m/a/x", "s3://m/b/y"]), ["x", "y"]);
        assert_eq!(told(["s3://m/a/x", "s3://m/b/x"]), ["s3://m/a/x", "s3://m/b/x"]);
        assert_eq!(told(["https://h/x?f=1", "https://h/x?f=2"]), ["https://h/x?… (1)", "https://h/x?… (2)"]);
    }

    #[test]
    fn an_index_names_each_file_once_and_in_order() {
        let json = br#"{"metadata":{"total_size":1},"weight_map":{"b":"2.safetensors","a":"1.safetensors","c":"2.safetensors"}}"#;
        let index = Index::parse(json, &at(USUAL_INDEX)).unwrap();
        let files = index.files(&parent(&at(USUAL_INDEX))).unwrap();
        let names: Vec<_> = files.iter().map(|file| (&*file.name, file.location.as_str())).collect();
        assert_eq!(
            names,
            [
                ("1.safetensors", "s3://models/llama/1.safetensors"),
                ("2.safetensors", "s3://models/llama/2.safetensors")
            ]
        );
    }

    #[test]
    fn an_index_that_cannot_be_right_is_refused_by_name() {
        let refused = |map: &str| {
            let json = format!(r#"{{"weight_map":{map}}}"#);
            let read = Index::parse(json.as_bytes(), &at(USUAL_INDEX));
            read.and_then(|index| index.files(&parent(&at(USUAL_INDEX)))).unwrap_err().to_string()
        };
        for (map, said) in [
            (r#"{"a":"../x.safetensors"}"#, "no file of the index's folder"),
            (
                r#"{"a":"x.safetensors","a":"y.safetensors"}"#,
                "in two files, \"x.safetensors\" and \"y.safetensors\"",
            ),
            (r#"{"a":"pytorch_model.bin"}"#, "pickle"),
            (r#"{"a":1}"#, "no index of safetensors files"),
            ("{}", "empty"),
        ] {
            assert!(refused(map).contains(said), "{map}: {}", refused(map));
        }
        assert!(Index::parse(b"[]", &at(USUAL_INDEX)).unwrap_err().to_string().contains("weight_map"));
    }
}
