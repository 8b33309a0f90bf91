//! Memory for values whose size the layout doesn't know: images as large as they are, texts, arrays.
//!
//! Their bytes are known before they are decoded (an image's from its header, a text's from its member), and are taken from a budget
//! then. Batches take in their order: a batch's rows are read once every row of the batch before has what it needs, so that the first
//! batch in line never waits for memory that a later one holds. Two batches must fit: one that is made, one in the consumer's hands.

use std::sync::Arc;

use forebay_cache::memory::{Budget, Row, Slab};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};

use super::slot::{ColumnLayout, Form, Layout};
use crate::error::{Error, Result};
use crate::field::Shapes;
use crate::memory::Split;
use crate::options::OnError;

/// A loader's memory for them.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) budget: Budget,
    pub(crate) split: Split,
    pub(crate) layout: Arc<Layout>,
    pub(crate) on_error: OnError,
}

/// Where a value of a column is decoded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Into the batch's slab, which the layout knows.
    Fixed,
    /// Into memory of its own, which is handed out.
    Own,
    /// Into its row of one slab, that the first row's form decides.
    Stacked,
    /// Into memory of its own, and copied into one slab when all forms are known.
    Packed,
}

impl Values {
    fn place(&self, column: &ColumnLayout) -> Place {
        match (&column.row, column.shapes) {
            (Some(_), _) => Place::Fixed,
            (None, _) if !column.kind.is_array() => Place::Own,
            (None, Shapes::Ragged) => Place::Own,
            // The form of a sample that may yet be replaced decides nothing.
            (None, Shapes::Equal) if self.on_error == OnError::Raise => Place::Stacked,
            (None, Shapes::Equal | Shapes::Pad(_)) => Place::Packed,
        }
    }

    /// Why values of so many bytes can't fit, whatever else is let go.
    fn too_large(&self, bytes: usize) -> Option<String> {
        (bytes.saturating_mul(2) > self.budget.capacity_bytes()).then(|| {
            format!(
                "its values take {bytes} bytes, and two batches must fit into the {} bytes for values; the least host_memory_limit with \
                 which one such sample fits is {}",
                self.budget.capacity_bytes(),
                self.least(bytes)
            )
        })
    }

    fn least(&self, bytes: usize) -> u64 {
        let needed = bytes.saturating_mul(2);
        self.split.least(|parts| parts.values >= needed)
    }
}

/// What one batch has taken.
#[derive(Debug)]
pub(crate) struct Reservation {
    values: Arc<Values>,
    rows: usize,
    /// True once the batch before has all that it needs.
    before: watch::Receiver<bool>,
    reserved: watch::Sender<bool>,
    stacks: Vec<OnceCell<Stack>>,
    state: Mutex<State>,
}

/// A column of rows of one form.
#[derive(Debug)]
struct Stack {
    form: Form,
    rows: Mutex<Vec<Option<Row>>>,
}

#[derive(Debug)]
struct State {
    /// Bytes that the batch takes in all, as far as its rows are known.
    needed: usize,
    /// More than may ever be had: what follows is counted only, so that the error can say how much would do.
    over: bool,
    /// The largest row's bytes and sample.
    largest: (usize, Arc<str>),
    settled: usize,
    /// By column, the largest length of each dimension.
    shapes: Vec<Option<Form>>,
    packed: Vec<Option<Slab>>,
}

/// What a row has taken: by column a place to decode into, none where the layout has one. `None`: the batch can't be made, and nothing is
/// to be decoded for it.
pub(crate) type Taken = Option<Vec<Option<Row>>>;

impl Reservation {
    /// For a batch of `rows` rows, in line behind the one whose `reserved` is `before`.
    pub(crate) fn new(values: &Arc<Values>, rows: usize, before: watch::Receiver<bool>) -> Self {
        let columns = values.layout.columns.len();
        let state = State {
            needed: 0,
            over: false,
            largest: (0, "".into()),
            settled: 0,
            shapes: vec![None; columns],
            packed: (0..columns).map(|_| None).collect(),
        };
        Self {
            values: values.clone(),
            rows,
            before,
            reserved: watch::Sender::new(false),
            stacks: (0..columns).map(|_| OnceCell::new()).collect(),
            state: Mutex::new(state),
        }
    }

    /// What the next batch's reservation waits for.
    pub(crate) fn behind(&self) -> watch::Receiver<bool> {
        self.reserved.subscribe()
    }

    /// Waits until the batch before has all that it needs.
    pub(crate) async fn turn(&self) {
        // A batch that ended before it had all lets the others go on: its error ends the epoch.
        drop(self.before.clone().wait_for(|reserved| *reserved).await);
    }

    /// Takes what the values of row `row` need. An error where that is more than there may ever be, and another sample may do.
    pub(crate) async fn take(
        &self,
        row: usize,
        forms: &[Option<Form>],
        label: &Arc<str>,
    ) -> Result<Taken, Refused> {
        let columns = self.values.layout.columns.iter().zip(forms).enumerate();
        let own = |place| matches!(place, Place::Own | Place::Packed);
        let bytes = self.counted(forms, own);
        if self.values.on_error == OnError::Skip
            && let Some(why) = self.values.too_large(bytes)
        {
            return Err(Refused::Sample(why));
        }
        let mut possible =
            self.count(bytes, Some((self.counted(forms, |place| place != Place::Fixed), label)));
        let mut taken = Vec::with_capacity(forms.len());
        for (column, (layout, form)) in columns {
            let Some(form) = form else {
                taken.push(None);
                continue;
            };
            let place = match self.values.place(layout) {
                Place::Stacked => self.stacked(column, row, form).await?,
                _ if possible => {
                    let slab = self.values.budget.allocate(form.bytes()).await?;
                    Row::split(slab, form.bytes(), 1).pop()
                }
                _ => None,
            };
            possible &= place.is_some();
            taken.push(place);
        }
        Ok(possible.then_some(taken))
    }

    /// A row of a column whose rows have one form; none where this one differs, or where there is no room for the column.
    async fn stacked(&self, column: usize, row: usize, form: &Form) -> Result<Option<Row>> {
        let make = async || {
            let bytes = form.bytes().saturating_mul(self.rows);
            let mut rows = Vec::new();
            if self.count(Budget::counted(bytes), None) {
                let slab = self.values.budget.allocate(bytes).await?;
                rows = Row::split(slab, form.bytes(), self.rows);
            }
            let rows = Mutex::new(rows.into_iter().map(Some).collect());
            Ok::<_, Error>(Stack { form: form.clone(), rows })
        };
        let stack = self.stacks[column].get_or_try_init(make).await?;
        if stack.form != *form {
            return Ok(None);
        }
        Ok(stack.rows.lock().get_mut(row).and_then(Option::take))
    }

    /// Counts bytes of the batch; false where they are too many.
    fn count(&self, bytes: usize, of: Option<(usize, &Arc<str>)>) -> bool {
        let mut state = self.state.lock();
        if let Some((bytes, label)) = of
            && bytes >= state.largest.0
        {
            state.largest = (bytes, label.clone());
        }
        state.needed = state.needed.saturating_add(bytes);
        state.over |= self.values.too_large(state.needed).is_some();
        !state.over
    }

    fn counted(&self, forms: &[Option<Form>], which: impl Fn(Place) -> bool) -> usize {
        let columns = self.values.layout.columns.iter().zip(forms);
        columns
            .filter(|(layout, _)| which(self.values.place(layout)))
            .filter_map(|(_, form)| form.as_ref().map(|form| Budget::counted(form.bytes())))
            .fold(0, usize::saturating_add)
    }

    /// A row's values are let go: its sample can't be decoded, and another one stands in.
    pub(crate) fn let_go(&self, forms: &[Option<Form>]) {
        let bytes = self.counted(forms, |place| matches!(place, Place::Own | Place::Packed));
        let mut state = self.state.lock();
        state.needed = state.needed.saturating_sub(bytes);
    }

    /// Whether a row's forms are final when it has taken what it needs: no sample stands in for another.
    pub(crate) fn settles_early(&self) -> bool {
        self.values.on_error == OnError::Raise
    }

    /// Says that a row has all that it needs. Behind the last one the columns' slabs are taken, and the next batch may begin.
    pub(crate) async fn settle(&self, forms: &[Option<Form>]) -> Result<()> {
        let last = {
            let mut state = self.state.lock();
            for (most, form) in state.shapes.iter_mut().zip(forms) {
                let Some(form) = form else { continue };
                most.get_or_insert_with(|| form.clone()).cover(form);
            }
            state.settled += 1;
            state.settled == self.rows
        };
        if !last {
            return Ok(());
        }
        for (column, layout) in self.values.layout.columns.iter().enumerate() {
            let form = self.state.lock().shapes[column].clone();
            let Some(form) = form.filter(|_| self.values.place(layout) == Place::Packed) else { continue };
            let bytes = form.bytes().saturating_mul(self.rows);
            if self.count(Budget::counted(bytes), None) {
                let slab = self.values.budget.allocate(bytes).await?;
                self.state.lock().packed[column] = Some(slab);
            }
        }
        self.reserved.send_replace(true);
        Ok(())
    }

    /// The slab into which a column's values are copied.
    pub(crate) fn packed(&self, column: usize) -> Option<Slab> {
        self.state.lock().packed[column].take()
    }

    /// An error where the batch can't be made.
    pub(crate) fn check(&self) -> Result<()> {
        let state = self.state.lock();
        if !state.over {
            return Ok(());
        }
        let (largest, label) = &state.largest;
        Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
            limit_bytes: self.values.split.limit_bytes(),
            needed_bytes: self.values.least(state.needed),
            what: format!(
                "a batch of {} samples takes {} bytes of images, texts or arrays that have no fixed size, the largest sample {label:?} {largest} \
                 bytes, and two batches must fit into the {} bytes for them; a smaller batch_size, or a transform with a fixed output size, \
                 needs less",
                self.rows,
                state.needed,
                self.values.budget.capacity_bytes()
            ),
        }))
    }
}

/// Why a row has not got what it needs.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its sample is too large.
    Sample(String),
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<forebay_cache::Error> for Refused {
    fn from(error: forebay_cache::Error) -> Self {
        Self::Failed(error.into())
    }
}
