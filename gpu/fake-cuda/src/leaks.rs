//! What was made and never given back. What is of a lost context is left out: nothing could give it back.

use crate::findings::Kind;
use crate::memory::Block;
use crate::places::Origin;
use crate::state::{Device, State};

impl State {
    /// Reports everything that there still is; how many.
    pub(crate) fn leaks(&mut self, when: &'static str) -> usize {
        let mut found = self.context_leaks(None);
        // Addresses are no device's: where one is lost, they may be its.
        let lost = self.devices.iter().any(|device| self.is_lost(device));
        for block in self.memory.blocks().values().filter(|_| !lost) {
            if let Block::Reservation { bytes, origin, .. } = block {
                found.push((format!("{bytes} bytes of addresses"), origin.clone()));
            }
        }
        for physical in
            self.physical.values().filter(|physical| !self.is_lost(&self.devices[physical.device]))
        {
            found.push((format!("{} bytes of physical memory", physical.bytes), physical.origin.clone()));
        }
        for device in self.devices.iter().filter(|device| !self.is_lost(device)) {
            found.extend(
                device
                    .retained
                    .iter()
                    .map(|origin| ("a reference to the primary context".to_owned(), origin.clone())),
            );
        }
        self.report(found, when)
    }

    /// As [`State::leaks`], of what ends with a context.
    pub(crate) fn leaks_of(&mut self, context: u64, when: &'static str) -> usize {
        let found = self.context_leaks(Some(context));
        self.report(found, when)
    }

    fn is_lost(&self, device: &Device) -> bool {
        device.primary.is_some_and(|context| self.sticky(context).is_err())
    }

    fn context_leaks(&self, only: Option<u64>) -> Vec<(String, Origin)> {
        let of = |context: u64| only.is_none_or(|only| only == context) && self.sticky(context).is_ok();
        let mut found = Vec::new();
        for block in self.memory.blocks().values() {
            if let Block::Allocation(allocation) = block
                && of(allocation.context)
                && allocation.ending.is_none()
            {
                found.push((
                    format!("{} bytes of device memory", allocation.bytes),
                    allocation.origin.clone(),
                ));
            }
        }
        for (start, pinned) in self.pinned.0.iter().filter(|(_, pinned)| of(pinned.context)) {
            found.push((
                format!("{} bytes of pinned memory ({:?})", pinned.end - start, pinned.pinning),
                pinned.origin.clone(),
            ));
        }
        let streams = self
            .streams
            .values()
            .filter(|stream| !stream.destroyed && !stream.built_in && of(stream.context));
        found.extend(streams.map(|stream| ("a stream".to_owned(), stream.origin.clone())));
        let events = self.events.values().filter(|event| of(event.context));
        found.extend(events.map(|event| ("an event".to_owned(), event.origin.clone())));
        let modules = self.modules.values().filter(|module| of(module.context));
        found.extend(modules.map(|module| ("a module".to_owned(), module.origin.clone())));
        let graphs = self.graphs.values().filter(|graph| of(graph.context));
        found.extend(graphs.map(|graph| ("a graph".to_owned(), graph.origin.clone())));
        let made = |context: u64, origin: &Origin| of(context).then(|| origin.clone());
        let handles = self.jpeg.handles.values().filter_map(|handle| made(handle.context, &handle.origin));
        found.extend(handles.map(|origin| ("an nvJPEG handle".to_owned(), origin)));
        let states = self.jpeg.states.values().filter_map(|state| made(state.context, &state.origin));
        found.extend(states.map(|origin| ("an nvJPEG state".to_owned(), origin)));
        let parsed = self.jpeg.parsed.values().filter_map(|parsed| made(parsed.context, &parsed.origin));
        found.extend(parsed.map(|origin| ("an nvJPEG stream".to_owned(), origin)));
        found
    }

    fn report(&mut self, found: Vec<(String, Origin)>, when: &'static str) -> usize {
        for (what, origin) in &found {
            self.found(Kind::Leak, &format!("{what}, still there at {when}"), origin, None);
        }
        found.len()
    }
}
