//! Where each channel of an event stream is: the text of its ids. Of one channel that is its cursor; of several
//! one cursor while all are at the same place, and else those of all, in the order in which they were asked for.
//! One cursor for several channels would not do: on each, events come in order, but not across them.

use rowcast_model::{Cursor, CursorError};

/// The places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorList(Vec<Option<Cursor>>);

impl CursorList {
    /// So many channels, of which none has a place.
    pub fn nowhere(channels: usize) -> CursorList {
        CursorList(vec![None; channels])
    }

    /// Reads an id for so many channels.
    ///
    /// # Errors
    /// [`CursorError`] when it is not one that such a stream handed out.
    pub fn parse(id: &str, channels: usize) -> Result<CursorList, CursorError> {
        let cursors = id.split(',').take(channels + 1).map(str::parse);
        let cursors: Vec<Cursor> = cursors.collect::<Result<_, _>>()?;
        match cursors.as_slice() {
            [all] => Ok(CursorList(vec![Some(*all); channels])),
            each if each.len() == channels => {
                Ok(CursorList(cursors.into_iter().map(Some).collect()))
            }
            _ => Err(CursorError),
        }
    }

    /// The place of a channel.
    pub fn get(&self, channel: usize) -> Option<Cursor> {
        self.0.get(channel).copied().flatten()
    }

    /// Moves a channel, or all of them.
    pub fn set(&mut self, channel: Option<usize>, cursor: Cursor) {
        match channel {
            None => self.0.fill(Some(cursor)),
            Some(channel) => {
                if let Some(place) = self.0.get_mut(channel) {
                    *place = Some(cursor);
                }
            }
        }
    }

    /// The text; `None` while a channel has no place.
    pub fn id(&self) -> Option<String> {
        let cursors: Vec<Cursor> = self.0.iter().copied().collect::<Option<_>>()?;
        let (first, rest) = cursors.split_first()?;
        if rest.iter().all(|other| other == first) {
            return Some(first.to_string());
        }
        let texts: Vec<String> = cursors.iter().map(Cursor::to_string).collect();
        Some(texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rowcast_model::{Epoch, Lsn};

    fn cursor() -> impl Strategy<Value = Cursor> {
        (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(epoch, lsn, index)| Cursor {
            epoch: Epoch(epoch),
            commit_lsn: Lsn(lsn),
            index,
        })
    }

    proptest! {
        #[test]
        fn an_id_says_where_each_channel_is(places in prop::collection::vec(cursor(), 1..17)) {
            let mut list = CursorList::nowhere(places.len());
            for (i, place) in places.iter().enumerate() {
                prop_assert_eq!(list.id(), None);
                list.set(Some(i), *place);
            }
            let id = list.id().unwrap();
            prop_assert_eq!(CursorList::parse(&id, places.len()), Ok(list.clone()));
            prop_assert!(places.len() < 2 || CursorList::parse(&id, places.len() + 1).is_err() || !id.contains(','));
            list.set(None, places[0]);
            prop_assert_eq!(list.id().unwrap(), places[0].to_string());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*", channels in 0_usize..20) {
            let _ = CursorList::parse(&text, channels);
        }
    }
}
