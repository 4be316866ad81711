//! The demo organization: an administrator, a few people, and one day that somebody really drove.

use crate::{
    api::{Api, SignedIn},
    failure::{Context, Failure, Outcome},
    interrupt::Interrupt,
    replay::{self, Account, Manner, patiently},
    services::{Environment, Programs, once},
    state::{Addresses, Folder, Organization, Person, random_hex},
    workspace::{self, setting},
};

const NAME: &str = "Demo Field Services";
const SLUG: &str = "demo";
const ADMIN: &str = "admin@demo.fieldtrack.example";
const PEOPLE: [(&str, &str); 3] = [
    ("Asha Rao", "asha@demo.fieldtrack.example"),
    ("Ben Okafor", "ben@demo.fieldtrack.example"),
    ("Carla Novak", "carla@demo.fieldtrack.example"),
];
const DAY: &str = "testdata/traces/car-visnjan.gpx";

/// Makes the organization in the database unless it is known to be there; returns why not, if it was refused.
///
/// A refusal is not the end: when the organization exists already, signing in will show whether it is ours.
pub async fn create_organization(
    folder: &Folder,
    addresses: &Addresses,
    programs: &Programs,
    environment: &Environment,
    interrupt: &mut Interrupt,
) -> Outcome<Option<String>> {
    let known = folder.load()?.organization.filter(|known| known.database == addresses.database());
    let organization = match known {
        Some(organization) if organization.id.is_some() => return Ok(None),
        Some(organization) => organization,
        None => {
            let admin_password = match setting("ADMIN_PASSWORD") {
                Some(password) => password,
                None => random_hex(10)?,
            };
            // Remembered first: if this command ends half-way, the password is not lost.
            let organization = Organization {
                database: addresses.database().to_owned(),
                id: None,
                admin_email: ADMIN.to_owned(),
                admin_password,
                people: Vec::new(),
                replayed_km: None,
            };
            folder.update(|state| state.organization = Some(organization.clone()))?;
            organization
        }
    };
    let environment = environment.clone().with("ADMIN_PASSWORD", &organization.admin_password);
    let words = ["organization", "create", "--name", NAME, "--slug", SLUG, "--admin-email", &organization.admin_email];
    let printed = match once(&programs.gateway, &words, &environment, interrupt).await? {
        Ok(printed) => printed,
        Err(refused) => return Ok(Some(refused)),
    };
    let created = printed.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let id = created.and_then(|created| created["organization_id"].as_str().map(str::to_owned));
    let id = id.ok_or_else(|| Failure::new(format!("`organization create` printed no organization_id: {printed}")))?;
    remember(folder, |organization| organization.id = Some(id))?;
    Ok(None)
}

/// Fills the organization through the public API: people, and a day if it never saw one.
pub async fn fill(folder: &Folder, api: &Api, refused: Option<&str>) -> Outcome {
    let missing = || Failure::new("the demo organization is not in the state");
    let organization = folder.load()?.organization.ok_or_else(missing)?;
    let signed_in = patiently(|| api.sign_in(&organization.admin_email, &organization.admin_password)).await.0;
    let admin = match signed_in {
        Ok(admin) => admin,
        Err(error) => {
            let reason = refused.map_or_else(
                || ". `cargo xtask reset` starts over".to_owned(),
                |refused| {
                    format!(
                        "; it could not be created either: {refused}\nIf it exists since before, give its \
                         administrator's password in ADMIN_PASSWORD"
                    )
                },
            );
            // Forgotten, so that another password can be given the next time.
            folder.update(|state| state.organization.take_if(|organization| organization.id.is_none()))?;
            return Err(error).context(format!("{} cannot sign in{reason}", organization.admin_email));
        }
    };
    if organization.id.is_none() {
        let id = patiently(|| admin.organization()).await.0?;
        remember(folder, |organization| organization.id = Some(id))?;
    }
    for (name, email) in PEOPLE {
        if !organization.people.iter().any(|person| person.email == email) {
            hire(folder, api, &admin, name, email).await?;
        }
    }
    if organization.replayed_km.is_none() {
        live_a_day(folder, api).await?;
    }
    Ok(())
}

async fn hire(folder: &Folder, api: &Api, admin: &SignedIn, name: &str, email: &str) -> Outcome {
    let person = Person { name: name.to_owned(), email: email.to_owned(), password: random_hex(10)? };
    // Remembered first, as above; a refusal takes it back.
    remember(folder, |organization| organization.people.push(person.clone()))?;
    let (created, attempts) = patiently(|| admin.create_employee(&person.name, &person.email, &person.password)).await;
    // Refused the second time because the first had succeeded, though its answer was lost?
    let lost_answer = attempts > 1 && api.sign_in(&person.email, &person.password).await.is_ok();
    if let Err(error) = created
        && !lost_answer
    {
        remember(folder, |organization| organization.people.retain(|known| known.email != person.email))?;
        // Somebody made this person before, with a password we do not know: nothing is spoilt by that.
        complain!("{} <{}> was not created: {error}", person.name, person.email);
    }
    Ok(())
}

async fn live_a_day(folder: &Folder, api: &Api) -> Outcome {
    let people = folder.load()?.organization.map(|organization| organization.people).unwrap_or_default();
    let Some(person) = people.into_iter().next() else { return Ok(()) };
    let track = testkit::track::Track::read(workspace::root().join(DAY)).context("the demo day is missing")?;
    let account = Account { api: api.clone(), email: person.email, password: person.password };
    let played = replay::play(&account, &track, &Manner::default(), "demo day").await.context("the demo day failed")?;
    if !played.is_equal() {
        complain!(
            "the product counts {:.2} km for the demo day, the reference {:.2} km",
            played.product_km,
            played.reference_km
        );
    }
    remember(folder, |organization| organization.replayed_km = Some(played.product_km))
}

fn remember(folder: &Folder, change: impl FnOnce(&mut Organization)) -> Outcome {
    folder.update(|state| {
        if let Some(organization) = &mut state.organization {
            change(organization);
        }
    })
}
