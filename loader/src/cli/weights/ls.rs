//! `forebay weights ls`: the files and tensors of a model.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::{ObjectId, ObjectMeta};
use serde::Serialize;

use super::super::failure::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{self, Report, Table, clean, count, grouped};
use super::super::status::percent;
use super::{Model, ModelArguments};
use crate::size;

/// Show the files of a model, how much of each is cached, and its tensors by dtype.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Show every tensor: dtype, shape, size and place
    #[arg(long)]
    tensors: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    tensors: u64,
    /// Of the tensors.
    bytes: u64,
    files: Vec<File>,
    other_files: Vec<File>,
    dtypes: Vec<Dtype>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all_tensors: Option<Vec<Tensor>>,
}

#[derive(Debug, Serialize)]
struct File {
    name: String,
    location: String,
    version: String,
    size_bytes: u64,
    /// Null for one beside the weights.
    tensors: Option<u64>,
    /// Null for one that is read where it lies.
    cached_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Dtype {
    dtype: &'static str,
    tensors: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    bytes: u64,
    file: String,
    /// Its first byte in the file.
    offset: u64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let model = Model::open(&arguments.model, interrupt)?;
    let cached = model.run("nothing was changed", cached(&model))?;
    output::print(&list(&model, cached.as_ref(), arguments.tensors), json)
}

/// Cached blocks by object; none where no cache is used.
async fn cached(model: &Model<'_>) -> crate::Result<Option<HashMap<ObjectId, u32>>> {
    let Some(session) = model.weights.session() else { return Ok(None) };
    let objects = session.cache().status().await?.objects;
    Ok(Some(objects.into_iter().map(|object| (object.id, object.cached_blocks)).collect()))
}

fn list(model: &Model<'_>, cached: Option<&HashMap<ObjectId, u32>>, all: bool) -> Listing {
    let weights = &model.weights;
    let file = |name: &str, object: &ObjectMeta, tensors, through_cache: bool| File {
        name: name.into(),
        location: object.location.to_string(),
        version: object.id.to_string(),
        size_bytes: object.size_bytes,
        tensors,
        cached_bytes: cached.filter(|_| through_cache).map(|cached| {
            let blocks = cached.get(&object.id).copied().unwrap_or(0);
            (u64::from(blocks) * BLOCK_BYTES).min(object.size_bytes)
        }),
    };
    let of_weights = weights.files().iter().enumerate().map(|(number, each)| {
        let tensors = each.header.tensors.len() as u64;
        file(&each.name, &each.object, Some(tensors), weights.is_cached(number))
    });
    let mut dtypes: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    for (_, tensor) in weights.tensors() {
        let (tensors, bytes) = dtypes.entry(tensor.dtype.name()).or_default();
        *tensors += 1;
        *bytes += tensor.bytes();
    }
    let row = |(number, tensor): (usize, &crate::weights::Tensor)| Tensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes(),
        file: weights.files()[number].name.clone(),
        offset: tensor.range.start,
    };
    let dtype = |(dtype, (tensors, bytes))| Dtype { dtype, tensors, bytes };
    let others = weights.others();
    let others = others.iter().map(|other| file(&other.name, &other.object, None, weights.is_cached(0)));
    Listing {
        tensors: weights.tensors().len() as u64,
        bytes: weights.data_bytes(),
        files: of_weights.collect(),
        other_files: others.collect(),
        dtypes: dtypes.into_iter().map(dtype).collect(),
        all_tensors: all.then(|| weights.tensors().map(row).collect()),
    }
}

impl File {
    fn row(&self) -> [String; 4] {
        [
            clean(&self.name),
            size::show(self.size_bytes),
            self.tensors.map_or(String::new(), grouped),
            self.cached_bytes.map_or("where it lies".into(), |cached| percent(cached, self.size_bytes)),
        ]
    }
}

impl Report for Listing {
    fn text(&self) -> String {
        let tensors = count(self.tensors, "tensor");
        let files = count(self.files.len() as u64, "file");
        let mut parts = vec![format!("{tensors} of {} in {files}", size::show(self.bytes))];
        let mut table = Table::new(&["file", "size", "tensors", "cached"], &[1, 2, 3]);
        self.files.iter().for_each(|file| table.row(file.row()));
        self.other_files.iter().for_each(|file| table.row(file.row()));
        parts.push(table.text());
        let mut table = Table::new(&["dtype", "tensors", "size"], &[1, 2]);
        for dtype in &self.dtypes {
            table.row([dtype.dtype.into(), grouped(dtype.tensors), size::show(dtype.bytes)]);
        }
        parts.push(table.text());
        if let Some(tensors) = &self.all_tensors {
            let mut table = Table::new(&["tensor", "dtype", "shape", "size", "file", "at byte"], &[3, 5]);
            for tensor in tensors {
                table.row([
                    clean(&tensor.name),
                    tensor.dtype.into(),
                    format!("{:?}", tensor.shape),
                    size::show(tensor.bytes),
                    clean(&tensor.file),
                    grouped(tensor.offset),
                ]);
            }
            parts.push(table.text());
        }
        parts.join("\n\n")
    }
}
