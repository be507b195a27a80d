//! Finding, making and re-wrapping data keys in a store: `keys/{lineage}/{key}/{number}-{random}.json` in a database's folder.
//!
//! These objects too are never overwritten: a key that is wrapped anew gets a further one, and the former are deleted when that one lies there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kubedb_core::age::Recipient;

use super::{
    KeyError, Keys, names,
    sealed::{DataKey, KeyId},
    wrapped::{WRAPPED_BYTES, Wrapped},
};
use crate::{
    repository::keys::{DatabaseFolder, NameError, of_lineage},
    store::{Store, StoreError},
};

/// Objects of keys that are read: one key, wrapped anew each day for years.
const OBJECTS_MAX: usize = 4_096;

/// A data key that was wrapped anew, or already was as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Which key.
    pub key: KeyId,
    /// Whose.
    pub lineage: String,
    /// Whom it was wrapped for before.
    pub before: Vec<Recipient>,
    /// Whether an object was written.
    pub is_new: bool,
    /// Objects that were deleted.
    pub deleted: usize,
}

/// One object, as its name tells.
struct Place {
    object: String,
    lineage: String,
    id: KeyId,
    number: u32,
}

/// All objects of one key, the latest last.
struct Held {
    id: KeyId,
    lineage: String,
    objects: Vec<(Place, Wrapped)>,
}

/// Folder of all data keys of a database.
const KEYS: &str = "keys";

fn folder_of(lineage: &str) -> Result<String, NameError> {
    of_lineage(KEYS, lineage)
}

fn place(folder: &DatabaseFolder, object: String) -> Option<Place> {
    let parts: Vec<&str> = folder.relative(&object)?.split('/').collect();
    let [KEYS, lineage, id, file] = parts.as_slice() else {
        return None;
    };
    let (number, _) = file.strip_suffix(".json")?.split_once('-')?;
    Some(Place {
        lineage: (*lineage).to_owned(),
        id: id.parse().ok()?,
        number: number.parse().ok()?,
        object,
    })
}

/// Looks at the keys below a folder, at most: a key that is wrapped anew while they are read is somewhere else then.
const LOOKS: u32 = 3;

/// Reads the keys below a folder. A damaged object is passed over where another one has the same key.
async fn held(store: &Store, folder: &DatabaseFolder, below: &str) -> Result<Vec<Held>, KeyError> {
    let mut looks = 0;
    loop {
        looks += 1;
        match look(store, folder, below).await? {
            Some(held) => return Ok(held),
            None if looks < LOOKS => {}
            None => {
                return Err(KeyError::Damaged {
                    object: folder.key(below),
                    label: store.label().to_owned(),
                    reason: "what it lists cannot be read".to_owned(),
                });
            }
        }
    }
}

/// None where an object was gone that had been listed.
async fn look(
    store: &Store,
    folder: &DatabaseFolder,
    below: &str,
) -> Result<Option<Vec<Held>>, KeyError> {
    let listed = store.list(&folder.key(below)).await?;
    let mut places: Vec<Place> = listed
        .into_iter()
        .filter_map(|listed| place(folder, listed.key))
        .collect();
    places.sort_by(|a, b| (&a.lineage, a.id, a.number).cmp(&(&b.lineage, b.id, b.number)));
    if places.len() > OBJECTS_MAX {
        return Err(KeyError::Damaged {
            object: folder.key(below),
            label: store.label().to_owned(),
            reason: format!("it holds more than {OBJECTS_MAX} objects"),
        });
    }
    let mut held: BTreeMap<(String, KeyId), Held> = BTreeMap::new();
    let mut damaged: BTreeMap<(String, KeyId), KeyError> = BTreeMap::new();
    for place in places {
        let key = (place.lineage.clone(), place.id);
        let wrapped = match read(store, &place).await {
            Ok(wrapped) => wrapped,
            Err(KeyError::Store(error)) if error.is_not_found() => return Ok(None),
            Err(error @ KeyError::Damaged { .. }) => {
                damaged.insert(key, error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let held = held.entry(key).or_insert_with(|| Held {
            id: place.id,
            lineage: place.lineage.clone(),
            objects: Vec::new(),
        });
        held.objects.push((place, wrapped));
    }
    match damaged.into_iter().find(|(key, _)| !held.contains_key(key)) {
        Some((_, error)) => Err(error),
        None => Ok(Some(held.into_values().collect())),
    }
}

async fn read(store: &Store, place: &Place) -> Result<Wrapped, KeyError> {
    let damaged = |reason: String| KeyError::Damaged {
        object: place.object.clone(),
        label: store.label().to_owned(),
        reason,
    };
    let bytes = match store.read(&place.object, WRAPPED_BYTES).await {
        Err(error @ StoreError::TooLarge { .. }) => return Err(damaged(error.to_string())),
        other => other?,
    };
    let read = Wrapped::decode(&bytes).map_err(damaged)?;
    let is_same = read.key_id == place.id.to_string();
    is_same
        .then_some(read)
        .ok_or_else(|| damaged("it is of another key than its name says".to_owned()))
}

impl Held {
    fn recipients(&self) -> Vec<Recipient> {
        let all = self
            .objects
            .iter()
            .flat_map(|(_, wrapped)| wrapped.recipients());
        let mut all: Vec<Recipient> = all.collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn created(&self) -> Timestamp {
        let created = self.objects.iter().map(|(_, wrapped)| wrapped.created);
        created.min().unwrap_or(Timestamp::MAX)
    }

    /// Opens it by whichever object opens.
    fn open(
        &self,
        keys: &Keys,
        store: &Store,
        folder: &DatabaseFolder,
    ) -> Result<DataKey, KeyError> {
        let mut wrong = None;
        for (place, wrapped) in self.objects.iter().rev() {
            match wrapped.open(self.id, &keys.identities) {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => {}
                Err(reason) => {
                    wrong.get_or_insert(KeyError::Damaged {
                        object: place.object.clone(),
                        label: store.label().to_owned(),
                        reason,
                    });
                }
            }
        }
        Err(wrong.unwrap_or_else(|| self.refusal(keys, store, folder)))
    }

    fn refusal(&self, keys: &Keys, store: &Store, folder: &DatabaseFolder) -> KeyError {
        let (key, what) = (self.id, folder.key(""));
        let what = what.trim_end_matches('/').to_owned();
        let label = store.label().to_owned();
        let recipients = names(&self.recipients());
        if keys.identities.is_empty() {
            return KeyError::NoIdentity {
                key,
                what,
                label,
                recipients,
            };
        }
        KeyError::WrongIdentity {
            key,
            what,
            label,
            recipients,
            given: names(&keys.own),
        }
    }

    fn is_witnessed(&self, keys: &Keys) -> bool {
        let mut all = self.objects.iter();
        all.any(|(_, wrapped)| wrapped.is_witnessed(&keys.identities))
    }

    fn next_number(&self) -> u32 {
        let last = self.objects.iter().map(|(place, _)| place.number).max();
        last.map_or(1, |last| last.saturating_add(1))
    }
}

/// The key of this id, by which something in the database's folder was encrypted.
pub(crate) async fn reading_key(
    store: &Store,
    folder: &DatabaseFolder,
    lineage: &str,
    id: KeyId,
) -> Result<DataKey, KeyError> {
    let nobody = Keys::reading(Vec::new())?;
    let keys = store.keys().unwrap_or(&nobody);
    if let Some(key) = keys.remembered(id) {
        return Ok(key);
    }
    let below = format!("{}/{id}", folder_of(lineage)?);
    let held = held(store, folder, &below).await?;
    let held = held.first().ok_or_else(|| KeyError::Missing {
        key: id,
        folder: folder.key(&below),
        label: store.label().to_owned(),
    })?;
    let key = held.open(keys, store, folder)?;
    keys.remember(&key);
    Ok(key)
}

/// The key that what is written of this lineage is encrypted with; none where nothing is to be encrypted. It is made where there is none. Keys that are
/// there and that none of the identities opens are an error: with the wrong Secret nothing is written.
pub(crate) async fn writing_key(
    store: &Store,
    folder: &DatabaseFolder,
    lineage: &str,
) -> Result<Option<DataKey>, KeyError> {
    let Some(keys) = store.keys().filter(|keys| keys.encrypts()) else {
        return Ok(None);
    };
    let below = folder_of(lineage)?;
    let mut all = held(store, folder, &below).await?;
    all.sort_by_key(|held| std::cmp::Reverse((held.created(), held.id)));
    let (mut refused, mut opens_any) = (None, false);
    for held in &all {
        match held.open(keys, store, folder) {
            Ok(key) if held.is_witnessed(keys) => {
                let has = held.recipients();
                if keys.recipients.iter().any(|wanted| !has.contains(wanted)) {
                    let next = (held.created(), held.next_number());
                    wrap(store, folder, keys, lineage, &key, next).await?;
                }
                keys.remember(&key);
                return Ok(Some(key));
            }
            // Nobody with our identity made it, so others may know it.
            Ok(_) => {
                opens_any = true;
                tracing::warn!(key = %held.id, "a key is not used for what is written: nobody who has this identity has wrapped it");
            }
            Err(error @ KeyError::WrongIdentity { .. }) => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = refused.filter(|_| !opens_any) {
        return Err(error);
    }
    let key = DataKey::random()?;
    wrap(store, folder, keys, lineage, &key, (Timestamp::now(), 1)).await?;
    keys.remember(&key);
    Ok(Some(key))
}

/// Writes an object that holds a key for the recipients that the store was opened with, and looks at it there: what is encrypted with a key that was lost
/// is lost.
async fn wrap(
    store: &Store,
    folder: &DatabaseFolder,
    keys: &Keys,
    lineage: &str,
    key: &DataKey,
    (created, number): (Timestamp, u32),
) -> Result<(), KeyError> {
    let id = key.id();
    let wrapped = Wrapped::new(key, lineage, created, &keys.recipients, &keys.identities)?;
    let random = uuid::Uuid::new_v4().simple();
    let object = format!("{}/{id}/{number:04}-{random}.json", folder_of(lineage)?);
    let object = folder.key(&object);
    let bytes = wrapped.encode().map_err(|_| KeyError::System)?;
    store.create(&object, bytes.into()).await?;
    let place = Place {
        object,
        lineage: lineage.to_owned(),
        id,
        number,
    };
    let there = read(store, &place).await?;
    if there != wrapped {
        return Err(KeyError::Damaged {
            object: place.object,
            label: store.label().to_owned(),
            reason: "it is not what was written".to_owned(),
        });
    }
    Ok(())
}

/// Wraps every data key of a database for the recipients that the store was opened with, and for nobody else, and touches nothing that is encrypted. As often as
/// one likes: a run that was cut off leaves keys that more can open than should, never fewer.
pub async fn rotate(store: &Store, folder: &DatabaseFolder) -> Result<Vec<Rotated>, KeyError> {
    let Some(keys) = store.keys().filter(|keys| keys.encrypts()) else {
        return Err(KeyError::System);
    };
    let all = held(store, folder, KEYS).await?;
    // All are opened before any is written.
    let opened: Result<Vec<_>, _> = all
        .iter()
        .map(|held| held.open(keys, store, folder))
        .collect();
    let mut rotated = Vec::new();
    for (held, key) in all.iter().zip(opened?) {
        let can_vouch = keys.own.iter().any(|own| keys.recipients.contains(own));
        let is_right = |(_, wrapped): &&(Place, Wrapped)| {
            let mut has = wrapped.recipients();
            has.sort_unstable();
            let is_vouched = !can_vouch || wrapped.is_witnessed(&keys.identities);
            has == keys.recipients && is_vouched
        };
        let right = held.objects.iter().rev().find(is_right);
        if right.is_none() {
            let next = (held.created(), held.next_number());
            wrap(store, folder, keys, &held.lineage, &key, next).await?;
        }
        let right = right.map(|(place, _)| place.object.as_str());
        let others = held.objects.iter().map(|(place, _)| place.object.as_str());
        let mut deleted = 0;
        for object in others.filter(|object| Some(*object) != right) {
            store.delete(object).await?;
            deleted += 1;
        }
        rotated.push(Rotated {
            key: held.id,
            lineage: held.lineage.clone(),
            before: held.recipients(),
            is_new: right.is_none(),
            deleted,
        });
    }
    Ok(rotated)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kubedb_core::age::Identity;
    use object_store::memory::InMemory;

    use super::*;
    use crate::encryption::{new_identity, recipient_of};

    const LINEAGE: &str = "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11";
    const OTHER: &str = "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a12";

    struct Bucket(Arc<InMemory>);

    impl Bucket {
        fn new() -> Self {
            Self(Arc::new(InMemory::new()))
        }

        fn store(&self, keys: Option<Keys>) -> Store {
            let store = Store::over(self.0.clone(), "memory:", "m", None).unwrap();
            match keys {
                Some(keys) => store.with_keys(keys),
                None => store,
            }
        }

        async fn key(&self, by: &[&Identity], recipients: &[Recipient]) -> Result<KeyId, KeyError> {
            self.key_of(LINEAGE, by, recipients).await
        }

        async fn key_of(
            &self,
            lineage: &str,
            by: &[&Identity],
            recipients: &[Recipient],
        ) -> Result<KeyId, KeyError> {
            let identities = by.iter().map(|identity| (*identity).clone()).collect();
            let keys = Keys::writing(identities, recipients.to_vec())?;
            let key = writing_key(&self.store(Some(keys)), &folder(), lineage).await?;
            Ok(key.unwrap().id())
        }

        async fn opens(&self, id: KeyId, by: &Identity) -> bool {
            let store = self.store(Some(Keys::reading(vec![by.clone()]).unwrap()));
            reading_key(&store, &folder(), LINEAGE, id).await.is_ok()
        }

        async fn rotate(&self, by: &[&Identity], recipients: &[Recipient]) -> Vec<Rotated> {
            let identities = by.iter().map(|identity| (*identity).clone()).collect();
            let keys = Keys::rotating(identities, recipients.to_vec()).unwrap();
            rotate(&self.store(Some(keys)), &folder()).await.unwrap()
        }

        async fn objects(&self) -> Vec<String> {
            let listed = self.store(None).list("kubedb").await.unwrap();
            listed.into_iter().map(|listed| listed.key).collect()
        }
    }

    fn folder() -> DatabaseFolder {
        DatabaseFolder::new("demo", "pg").unwrap()
    }

    fn of(identity: &Identity) -> Recipient {
        recipient_of(identity).unwrap()
    }

    #[tokio::test]
    async fn a_lineage_has_one_key_and_with_another_identity_nothing_is_written() {
        let bucket = Bucket::new();
        let [ours, others] = [(); 2].map(|()| new_identity().unwrap());
        let id = bucket.key(&[&ours], &[]).await.unwrap();
        let alone = [of(&ours)];
        let again = bucket.key(&[&others, &ours], &alone).await;
        assert_eq!(again.unwrap(), id);
        let before = bucket.objects().await;
        let error = bucket.key(&[&others], &[]).await.unwrap_err();
        let told = error.to_string();
        for word in [
            id.to_string(),
            of(&ours).to_string(),
            of(&others).to_string(),
        ] {
            assert!(told.contains(&word), "{told}");
        }
        assert!(error.is_mendable() && !error.is_retryable());
        assert_eq!(bucket.objects().await, before);
        // Nor for recipients of which one is not ours.
        let error = bucket.key(&[&others], &[of(&ours)]).await.unwrap_err();
        assert!(matches!(error, KeyError::Unreadable { .. }), "{error}");
        // Another database of the name has a key of its own, whoever's it is.
        assert_ne!(bucket.key_of(OTHER, &[&others], &[]).await.unwrap(), id);
        let nothing = writing_key(&bucket.store(None), &folder(), LINEAGE).await;
        assert_eq!(nothing.unwrap(), None);
    }

    #[tokio::test]
    async fn a_recipient_that_is_added_can_read_what_was_written_before() {
        let bucket = Bucket::new();
        let [ours, escrow] = [(); 2].map(|()| new_identity().unwrap());
        let id = bucket.key(&[&ours], &[]).await.unwrap();
        assert!(!bucket.opens(id, &escrow).await);
        let both = [of(&escrow), of(&ours)];
        assert_eq!(bucket.key(&[&ours], &both).await.unwrap(), id);
        assert!(bucket.opens(id, &escrow).await);
        let objects = bucket.objects().await;
        assert_eq!(bucket.key(&[&ours], &both).await.unwrap(), id);
        assert_eq!(bucket.key(&[&ours], &[]).await.unwrap(), id);
        assert_eq!(bucket.objects().await, objects);
    }

    #[tokio::test]
    async fn rotation_wraps_the_same_key_for_others_as_often_as_one_likes() {
        let bucket = Bucket::new();
        let [old, new] = [(); 2].map(|()| new_identity().unwrap());
        let id = bucket.key(&[&old], &[]).await.unwrap();
        let store = bucket.store(None);
        let [first] = bucket.objects().await.try_into().unwrap();
        let kept = store.read(&first, 1 << 20).await.unwrap();
        let rotated = bucket.rotate(&[&old, &new], &[of(&new)]).await;
        assert_eq!(rotated.len(), 1);
        assert_eq!(
            (rotated[0].key, rotated[0].is_new, rotated[0].deleted),
            (id, true, 1)
        );
        assert_eq!(rotated[0].before, [of(&old)]);
        assert!(bucket.opens(id, &new).await && !bucket.opens(id, &old).await);
        // One that was cut off before it had deleted the former.
        store.create(&first, kept.into()).await.unwrap();
        let again = bucket.rotate(&[&new], &[of(&new)]).await;
        assert_eq!((again[0].is_new, again[0].deleted), (false, 1));
        let again = bucket.rotate(&[&new], &[of(&new)]).await;
        assert_eq!((again[0].is_new, again[0].deleted), (false, 0));
        // What is written goes on with it.
        assert_eq!(bucket.key(&[&new], &[]).await.unwrap(), id);
    }

    #[tokio::test]
    async fn a_key_that_somebody_else_put_there_is_read_and_never_written_with() {
        let bucket = Bucket::new();
        let [ours, stranger] = [(); 2].map(|()| new_identity().unwrap());
        // Whoever can write into the bucket and knows the recipient.
        let planted = DataKey::random().unwrap();
        let keys = Keys::rotating(vec![stranger], vec![of(&ours)]).unwrap();
        let store = bucket.store(None);
        let place = folder();
        let plant = |created| wrap(&store, &place, &keys, LINEAGE, &planted, created);
        plant((Timestamp::UNIX_EPOCH, 1)).await.unwrap();
        assert!(bucket.opens(planted.id(), &ours).await);
        let id = bucket.key(&[&ours], &[]).await.unwrap();
        assert_ne!(id, planted.id());
        plant((Timestamp::MAX, 2)).await.unwrap();
        assert_eq!(bucket.key(&[&ours], &[]).await.unwrap(), id);
    }

    #[tokio::test]
    async fn a_key_that_is_gone_or_damaged_is_named() {
        let bucket = Bucket::new();
        let ours = new_identity().unwrap();
        let id = bucket.key(&[&ours], &[]).await.unwrap();
        let [object] = bucket.objects().await.try_into().unwrap();
        let store = bucket.store(Some(Keys::reading(vec![ours.clone()]).unwrap()));
        let whole = store.read(&object, 1 << 20).await.unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1;
            store.delete(&object).await.unwrap();
            store.create(&object, bytes.into()).await.unwrap();
            // What only people read may differ, but no other key comes of it.
            let fresh = bucket.store(Some(Keys::reading(vec![ours.clone()]).unwrap()));
            match reading_key(&fresh, &folder(), LINEAGE, id).await {
                Ok(key) => assert_eq!(key.id(), id),
                Err(error) => assert!(error.to_string().contains(&id.to_string()), "{error}"),
            }
        }
        store.delete(&object).await.unwrap();
        let error = reading_key(&store, &folder(), LINEAGE, id)
            .await
            .unwrap_err();
        assert!(matches!(error, KeyError::Missing { .. }), "{error}");
    }
}
