//! The way into every function of the driver: what must hold before it does anything.
//!
//! In this order: the process is the one that initialised the driver, and isn't ending; the caller is no host function; the driver has the
//! function; it is initialised; a context is current and not lost; no capture forbids the call; the GIL isn't held if it may block; the plan
//! of faults has none for it.

use std::ops::{Deref, DerefMut};

use crate::codes::Code;
use crate::engine::in_host_function;
use crate::findings::Kind;
use crate::places::Origin;
use crate::state::{Locked, State, lock};
use crate::{gil, process, threads};

/// What a function asks for.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// cuInit before it.
    pub(crate) initialised: bool,
    /// A current context.
    pub(crate) context: bool,
    /// No part of a stream, and so forbidden during captures.
    pub(crate) unsafe_in_capture: bool,
    /// It may wait.
    pub(crate) blocks: bool,
    /// It gives something back, and does so on a lost context too.
    pub(crate) releases: bool,
}

/// Nothing.
pub(crate) const ANYWHERE: Rules =
    Rules { initialised: false, context: false, unsafe_in_capture: false, blocks: false, releases: false };
/// cuInit.
pub(crate) const INITIALISED: Rules = Rules { initialised: true, ..ANYWHERE };
/// A context.
pub(crate) const CONTEXT: Rules = Rules { context: true, ..INITIALISED };

impl Rules {
    pub(crate) const fn unsafe_in_capture(self) -> Rules {
        Rules { unsafe_in_capture: true, ..self }
    }

    pub(crate) const fn blocks(self) -> Rules {
        Rules { blocks: true, ..self }
    }

    pub(crate) const fn releases(self) -> Rules {
        Rules { releases: true, ..self }
    }
}

/// A call under way.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) state: Locked,
    /// The current context, where the rules ask for one.
    pub(crate) context: u64,
}

impl Deref for Call {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Call {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Call {
    /// The call and its place.
    pub(crate) fn origin(&self) -> Origin {
        Origin::here(self.name)
    }

    /// The device of the current context.
    pub(crate) fn device(&mut self) -> Result<usize, Code> {
        let context = self.context;
        self.state.device_of(context)
    }

    /// The stream that a handle stands for.
    pub(crate) fn stream_of(&mut self, handle: u64) -> Result<u64, Code> {
        let (context, name) = (self.context, self.name);
        if context == 0 && handle <= 2 {
            return Err(Code::INVALID_CONTEXT);
        }
        self.state.resolve(handle, context, name)
    }
}

/// What functions of a library answer, beside success.
pub(crate) trait Answer: From<Code> {
    /// What the plan of faults has for a function.
    fn planned(code: Code) -> Self;

    /// As the API has it.
    fn number(self) -> i32;
}

impl Answer for Code {
    fn planned(code: Code) -> Self {
        code
    }

    fn number(self) -> i32 {
        self.0
    }
}

/// Makes a call: the result as the API has it.
pub(crate) fn call<E: Answer>(
    name: &'static str,
    rules: Rules,
    body: impl FnOnce(&mut Call) -> Result<(), E>,
) -> i32 {
    match enter(name, rules, body) {
        Ok(()) => 0,
        Err(error) => error.number(),
    }
}

fn enter<E: Answer>(
    name: &'static str,
    rules: Rules,
    body: impl FnOnce(&mut Call) -> Result<(), E>,
) -> Result<(), E> {
    if rules.initialised || name == "cuInit" {
        process::same(name)?;
    }
    if rules.initialised && in_host_function() {
        lock().found(
            Kind::HostFunction,
            "a host function calls the driver, which may deadlock",
            &Origin::here(name),
            None,
        );
        return Err(Code::NOT_PERMITTED.into());
    }
    let mut call = Call { name, state: lock(), context: 0 };
    if call.settings.missing.contains(name) {
        let what = "this version of the driver doesn't have the function: look it up first";
        let origin = call.origin();
        call.found(Kind::Missing, what, &origin, None);
        return Err(Code::NOT_SUPPORTED.into());
    }
    if rules.initialised && !call.initialised {
        return Err(Code::NOT_INITIALIZED.into());
    }
    if rules.blocks && gil::held() {
        let origin = call.origin();
        call.found(Kind::Gil, "blocks while its thread holds the GIL", &origin, None);
    }
    call.context = threads::current();
    let mut lost = Ok(());
    if call.context != 0 {
        let context = call.context;
        if !call.contexts.contains_key(&context) {
            return if rules.context { Err(Code::CONTEXT_IS_DESTROYED.into()) } else { body(&mut call) };
        }
        lost = call.sticky(context);
    } else if rules.context {
        return Err(Code::INVALID_CONTEXT.into());
    }
    if rules.context && !rules.releases {
        lost?;
    }
    if rules.unsafe_in_capture {
        call.forbid_during_capture(name)?;
    }
    call.fault(name).map_err(E::planned)?;
    body(&mut call)?;
    if rules.releases { Ok(lost?) } else { Ok(()) }
}

/// Writes a result where the caller wants it.
pub(crate) fn give<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller of the driver's function gave a place for the result, as its documentation asks.
    unsafe { to.write(value) };
    Ok(())
}

/// As [`give`], for a result that the caller may not want.
pub(crate) fn offer<T>(to: *mut T, value: T) {
    let _ = give(to, value);
}

/// Reads an argument that is passed by its address.
pub(crate) fn take<T: Copy>(from: *const T) -> Result<T, Code> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller of the driver's function gave the address of such a value, as its documentation asks.
    Ok(unsafe { from.read() })
}

/// Reads a text.
pub(crate) fn text<'a>(from: *const std::ffi::c_char) -> Result<&'a str, Code> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller of the driver's function gave a text that ends with a zero and lives as long as the call.
    unsafe { std::ffi::CStr::from_ptr(from) }.to_str().map_err(|_| Code::INVALID_VALUE)
}
