//! Classes of subscribers for which an event has the same bytes. Owns their identity and what they
//! have encoded: each event once. A table with masks looks different to some of a class: then the event is
//! encoded once for each view of it that there is among them.

use std::sync::Arc;

use hashbrown::HashMap;
use rowcast_model::{OrgId, RoutedEvent, Topic, View};
use rowcast_wire::{
    Columns, EventClass, EventMemo, Forms, Frame, Mode, encode_event, encode_event_into,
    phoenix::{Voice, What},
};
use slab::Slab;

use crate::{
    sights::Sights,
    stage::{Pen, Stage, Stretch},
};

/// The number of a class.
pub(crate) type ClassId = u32;

/// What tells classes apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey {
    /// The channel's name.
    pub channel: Arc<str>,
    /// Whose events it carries; none for a channel over several.
    pub topic: Option<Topic>,
    pub forms: Forms,
    pub columns: Option<Columns>,
    pub mode: Mode,
    pub voice: Voice,
}

pub(crate) struct Class {
    key: ClassKey,
    /// Subscriptions, or parts of them, in this class.
    users: usize,
    pen: Pen,
    /// Only there once the class has encoded something.
    memo: Option<Box<EventMemo>>,
    /// Number of the step whose frame `stretch` is.
    step: u64,
    stretch: Stretch,
    /// Members who got a part of the present transaction for themselves, or have to skip events.
    singles: i32,
    /// All members got a part of the present transaction, and not what is marked as its last event.
    pub open: bool,
    /// The same for each view that is not plain.
    panes: Vec<Pane>,
    /// Who of the members sees what.
    pub sights: Sights,
    /// For subscribers of the latest: the frames by themselves, by view, of one step.
    held: (u64, Vec<(View, Frame)>),
}

/// What those of a class get who see the same of masked columns.
struct Pane {
    view: View,
    pen: Pen,
    step: u64,
    stretch: Stretch,
}

/// Panes that are kept for the next event.
const KEPT_PANES: usize = 64;

#[derive(Default)]
pub(crate) struct Classes {
    classes: Slab<Class>,
    by_key: HashMap<ClassKey, ClassId, foldhash::fast::RandomState>,
}

impl Class {
    /// Whether the mark of a transaction's last event is true on this channel.
    fn marks_last(&self, event: &RoutedEvent) -> bool {
        // Of its own topic, and that is the only one of the kind.
        let own = matches!(
            (&self.key.topic, &event.topic),
            (Some(Topic::Org(_)), Topic::Org(_)) | (Some(Topic::Channel(..)), Topic::Channel(..))
        );
        own && self.key.mode == Mode::All
    }

    /// Whether those of this class want to hear of an event.
    pub(crate) fn wants(&self, event: &RoutedEvent) -> bool {
        (self.key.forms.broadcasts || event.as_message().is_none()) && self.key.voice.wants(event)
    }

    /// The binding to rows that it is, on sockets of the Supabase protocol.
    pub(crate) fn binding(&self) -> Option<u32> {
        match &self.key.voice {
            Voice::Phoenix(spoken) => match spoken.what {
                What::Rows { id, .. } => Some(id),
                What::Room | What::TableEvents { .. } => None,
            },
            Voice::Native => None,
        }
    }

    /// Whether an event for everybody goes to all members without looking at each.
    pub(crate) fn is_uniform(&self) -> bool {
        self.singles == 0 && self.key.mode == Mode::All
    }

    /// Counts a member that became single, or ceased to be.
    pub(crate) fn note_single(&mut self, before: bool, after: bool) {
        self.singles += i32::from(after) - i32::from(before);
    }

    /// Whose events it carries, if it is one topic's.
    pub(crate) fn topic(&self) -> Option<&Topic> {
        self.key.topic.as_ref()
    }

    /// Whether this class was told something in this step.
    pub(crate) fn told(&self, step: u64) -> bool {
        self.step == step
    }

    /// Whether a subscriber of this class knows from this event that the transaction is complete.
    pub(crate) fn completes(&self, event: &RoutedEvent) -> bool {
        // Supabase's protocol does not tell transactions apart.
        event.last && self.marks_last(event) || self.key.voice != Voice::Native
    }

    fn encoding(&self, event: &RoutedEvent, view: View) -> EventClass<'_> {
        let organization = self.key.topic.as_ref().and_then(Topic::organization);
        EventClass {
            channel: &self.key.channel,
            organization: organization.map_or("", OrgId::as_str),
            forms: self.key.forms,
            columns: self.key.columns.as_deref(),
            view,
            mark_last: self.marks_last(event),
            voice: &self.key.voice,
        }
    }

    /// The frame of an event, encoded at its first use in this step.
    pub(crate) fn event(
        &mut self,
        step: u64,
        event: &RoutedEvent,
        view: View,
        stage: &mut Stage,
    ) -> &Stretch {
        if view != View::PLAIN {
            return self.pane(step, event, view, stage);
        }
        if self.step != step {
            let mut memo = self.memo.take().unwrap_or_default();
            let mut pen = self.pen;
            let class = self.encoding(event, view);
            self.stretch = stage.write(&mut pen, |out| {
                encode_event_into(out, event, &class, &mut memo);
            });
            self.pen = pen;
            self.memo = Some(memo);
            self.step = step;
        }
        &self.stretch
    }

    /// The same with masks.
    fn pane(&mut self, step: u64, event: &RoutedEvent, view: View, stage: &mut Stage) -> &Stretch {
        let known = self.panes.iter().position(|pane| pane.view == view);
        let at = known.unwrap_or_else(|| {
            if self.panes.len() >= KEPT_PANES {
                self.panes.retain(|pane| pane.step == step);
            }
            self.panes.push(Pane {
                view,
                pen: Pen::default(),
                step: 0,
                stretch: Stretch::default(),
            });
            self.panes.len() - 1
        });
        let mut panes = std::mem::take(&mut self.panes);
        if let Some(pane) = panes.get_mut(at).filter(|pane| pane.step != step) {
            let mut memo = self.memo.take().unwrap_or_default();
            let class = self.encoding(event, view);
            pane.stretch = stage.write(&mut pane.pen, |out| {
                encode_event_into(out, event, &class, &mut memo);
            });
            pane.step = step;
            self.memo = Some(memo);
        }
        self.panes = panes;
        let pane = self.panes.get(at);
        pane.map_or(&self.stretch, |pane| &pane.stretch)
    }

    /// The frame by itself, to be held back.
    pub(crate) fn event_alone(&mut self, step: u64, event: &RoutedEvent, view: View) -> Frame {
        if self.held.0 != step {
            self.held = (step, Vec::new());
        }
        if let Some((_, frame)) = self.held.1.iter().find(|(of, _)| *of == view) {
            return frame.clone();
        }
        let frame = encode_event(event, &self.encoding(event, view));
        self.held.1.push((view, frame.clone()));
        frame
    }

    /// The frame of a past event, for one subscriber.
    pub(crate) fn past_event(&mut self, event: &RoutedEvent, view: View, out: &mut Vec<u8>) {
        let mut memo = self.memo.take().unwrap_or_default();
        encode_event_into(out, event, &self.encoding(event, view), &mut memo);
        self.memo = Some(memo);
    }

    /// The name of its channel.
    pub(crate) fn channel(&self) -> &str {
        &self.key.channel
    }

    /// Some other frame that is the same for the whole class, made at its first use in this step.
    pub(crate) fn news(
        &mut self,
        step: u64,
        stage: &mut Stage,
        frame: impl FnOnce(&str) -> Frame,
    ) -> &Stretch {
        if self.step != step {
            let frame = frame(&self.key.channel);
            self.stretch = stage.write(&mut self.pen, |out| out.extend_from_slice(&frame));
            self.step = step;
        }
        &self.stretch
    }
}

impl Classes {
    /// The class with this key, counted once more.
    pub(crate) fn join(&mut self, key: ClassKey) -> ClassId {
        if let Some(id) = self.by_key.get(&key) {
            if let Some(class) = self.classes.get_mut(*id as usize) {
                class.users += 1;
            }
            return *id;
        }
        let id = self.classes.insert(Class {
            key: key.clone(),
            users: 1,
            pen: Pen::default(),
            memo: None,
            step: 0,
            stretch: Stretch::default(),
            singles: 0,
            open: false,
            panes: Vec::new(),
            sights: Sights::default(),
            held: (0, Vec::new()),
        });
        let id = ClassId::try_from(id).unwrap_or(ClassId::MAX);
        self.by_key.insert(key, id);
        id
    }

    /// Ends one use of a class.
    pub(crate) fn leave(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(id as usize) else {
            return;
        };
        class.users -= 1;
        if class.users == 0 {
            let class = self.classes.remove(id as usize);
            self.by_key.remove(&class.key);
        }
    }

    pub(crate) fn get(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(id as usize)
    }
}
