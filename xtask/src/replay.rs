//! A recorded track through the public API, as a phone would send it on a good day and on a bad one.
//!
//! The distance the product arrives at must equal the reference at two decimals, however the upload went: in order
//! or not, once or twice, with answers lost on the way.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::track::{SplitMix, Track, reference_km};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    api::{Api, ApiError, Position, Session, SignedIn},
    failure::{Context, Failure, Outcome},
    state::{self, Folder, Person, random_hex},
};

/// The most points the API takes at once.
const BATCH: usize = 100;
/// A phone uploads at least this often while it moves.
const UPLOAD_EVERY: TimeDelta = TimeDelta::seconds(10);
/// Without `--speed` a track is squeezed into this: its last point lies ahead of the server's clock by less than the
/// two minutes that are allowed, so nothing has to be waited for.
const SQUEEZED: TimeDelta = TimeDelta::seconds(60);
/// Longer than any outage a phone is expected to sit out in a test.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the product may take to compute the distance after check-out.
const DISTANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// A distance that is done but differs may be one of before the last upload: look again for so long.
const SECOND_LOOK: Duration = Duration::from_secs(10);

/// Options of `replay`.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Recordings: .gpx, .fit or .nmea
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Address of the API; the running `up` when absent
    #[arg(long, requires = "email")]
    api: Option<String>,
    /// Employee to sign in as; a demo employee when absent
    #[arg(long, requires = "password")]
    email: Option<String>,
    /// Password of that employee
    #[arg(long, requires = "email")]
    password: Option<String>,
    /// State of the `up` to use
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    pub manner: Manner,
}

/// How the points travel.
#[derive(Args, Clone, Debug, Default)]
pub struct Manner {
    /// Times real speed, waiting for each point to happen; as fast as allowed when absent
    #[arg(long, value_parser = positive)]
    pub speed: Option<f64>,
    /// Send the points in random order
    #[arg(long)]
    pub shuffle: bool,
    /// Send every batch twice
    #[arg(long)]
    pub duplicate: bool,
    /// Hang up before reading some of the answers, and send those batches again
    #[arg(long)]
    pub drop_and_resend: bool,
    /// Send in this many uploads at least (each holds 100 points at most)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub split: Option<u32>,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|speed: &f64| speed.is_finite() && *speed > 0.0).ok_or("must be above 0".to_owned())
}

/// Somebody with a password, and the server they know.
#[derive(Clone, Debug)]
pub struct Account {
    /// The server.
    pub api: Api,
    /// E-mail.
    pub email: String,
    /// Password.
    pub password: String,
}

/// What became of one track.
#[derive(Clone, Copy, Debug)]
pub struct Played {
    /// Points sent.
    pub points: usize,
    /// Kilometres by the product.
    pub product_km: f64,
    /// Kilometres by the other library.
    pub reference_km: f64,
}

impl Played {
    /// Whether both say the same at two decimals.
    pub fn is_equal(&self) -> bool {
        let hundredths = |km: f64| (km * 100.0).round();
        hundredths(self.product_km) == hundredths(self.reference_km)
    }
}

/// Plays the files one after the other and compares.
pub async fn run(options: Options) -> Outcome<ExitCode> {
    let tracks = options
        .files
        .iter()
        .map(|file| Track::read(file).context("nothing to replay"))
        .collect::<Outcome<Vec<Track>>>()?;
    let account = account(&options).await?;
    say!("as {} at {}", account.email, account.api.address());
    let mut rows = Vec::new();
    for (file, track) in options.files.iter().zip(&tracks) {
        let name = file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into());
        let played = play(&account, track, &options.manner, &name).await.context(format!("{name} was not replayed"))?;
        rows.push((name, played));
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("file".len());
    say!("{:<width$}  {:>7}  {:>10}  {:>12}  equal", "file", "points", "product km", "reference km");
    for (name, played) in &rows {
        let equal = if played.is_equal() { "yes" } else { "NO" };
        let Played { points, product_km, reference_km } = played;
        say!("{name:<width$}  {points:>7}  {product_km:>10.2}  {reference_km:>12.2}  {equal}");
    }
    let equal = rows.iter().all(|(_, played)| played.is_equal());
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The employee that was named, else one of the demo organization who is not at work.
async fn account(options: &Options) -> Outcome<Account> {
    let folder = Folder::dev(options.dir.as_deref());
    let running = || state::of_running_product(&folder);
    let address = match &options.api {
        Some(address) => address.clone(),
        None => format!("http://127.0.0.1:{}", running()?.gateway.map_or(0, |gateway| gateway.port)),
    };
    let api = Api::new(&address)?;
    if let (Some(email), Some(password)) = (&options.email, &options.password) {
        return Ok(Account { api, email: email.clone(), password: password.clone() });
    }
    let none = || Failure::new("there is no demo organization: name an employee with --email and --password");
    let organization = running()?.organization.ok_or_else(none)?;
    for person in &organization.people {
        let account = Account { api: api.clone(), email: person.email.clone(), password: person.password.clone() };
        let caller = account.sign_in().await?;
        if patiently(|| caller.open_session()).await.0?.is_none() {
            return Ok(account);
        }
    }
    // Everybody is at work: hire somebody.
    let number = random_hex(3)?;
    let person = Person {
        name: format!("Replay {number}"),
        email: format!("replay-{number}@demo.fieldtrack.example"),
        password: random_hex(10)?,
    };
    let admin = patiently(|| api.sign_in(&organization.admin_email, &organization.admin_password)).await.0?;
    patiently(|| admin.create_employee(&person.name, &person.email, &person.password)).await.0?;
    folder.update(|state| {
        if let Some(organization) = &mut state.organization {
            organization.people.push(person.clone());
        }
    })?;
    Ok(Account { api, email: person.email, password: person.password })
}

impl Account {
    async fn sign_in(&self) -> Outcome<SignedIn> {
        let caller = patiently(|| self.api.sign_in(&self.email, &self.password)).await.0;
        caller.context(format!("{} cannot sign in", self.email))
    }
}

/// Plays one track: check in, upload, check out, wait for the distance.
pub async fn play(account: &Account, track: &Track, manner: &Manner, name: &str) -> Outcome<Played> {
    let mut caller = account.sign_in().await?;
    let session = check_in(&caller).await?;
    let checked_in = Instant::now();
    let id = session.id.clone().ok_or_else(|| Failure::new("the session has no id"))?;
    let mut random = SplitMix(manner.seed);
    let uploads = plan(track, session.checkin_at, manner, &mut random);

    let bar = ProgressBar::new(track.points.len() as u64).with_message(name.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} points, {eta} left") {
        bar.set_style(style);
    }
    for (number, upload) in uploads.iter().enumerate() {
        if let Some(wait) = upload.due.checked_sub(checked_in.elapsed()) {
            tokio::time::sleep(wait).await;
        }
        let body = json!({"session_id": id, "points": upload.points});
        // The first is always lost, so that even a short track meets a lost answer.
        if manner.drop_and_resend && (number == 0 || random.between(0.0, 1.0) < 0.4) {
            send_and_hang_up(account.api.base(), caller.token(), &body).await?;
        }
        for _ in 0..=usize::from(manner.duplicate) {
            caller = record(account, caller, &body).await?;
        }
        bar.inc(upload.points.len() as u64);
    }
    caller = account.sign_in().await?;
    check_out(&caller).await?;
    bar.finish_and_clear();

    let reference_km = reference_km(&track.points);
    let product_km = distance(&caller, &id, reference_km).await?;
    Ok(Played { points: track.points.len(), product_km, reference_km })
}

/// One request: what it carries, and when the phone would send it, counted from check-in.
#[derive(Debug)]
struct Upload {
    points: Vec<Position>,
    due: Duration,
}

/// Shifts the track behind check-in, squeezes it, and cuts it into uploads.
fn plan(track: &Track, checkin_at: DateTime<Utc>, manner: &Manner, random: &mut SplitMix) -> Vec<Upload> {
    let microseconds = |time: TimeDelta| time.num_microseconds().unwrap_or(i64::MAX);
    let Some(first) = track.points.first() else { return Vec::new() };
    let squeeze = microseconds(track.duration()) as f64 / microseconds(SQUEEZED) as f64;
    let speed = manner.speed.unwrap_or(squeeze.max(1.0));
    let base = checkin_at + TimeDelta::milliseconds(1);
    let mut latest = None;
    let mut points: Vec<(TimeDelta, Position)> = Vec::with_capacity(track.points.len());
    for (number, point) in track.points.iter().enumerate() {
        let mut offset = (microseconds(point.recorded_at - first.recorded_at) as f64 / speed) as i64;
        // Squeezed, two points may fall on one microsecond, and the product would take the second for a repetition.
        if latest.is_some_and(|latest| offset <= latest) {
            offset = latest.map_or(0, |latest| latest + 1);
        }
        latest = Some(offset);
        let offset = TimeDelta::microseconds(offset);
        points.push((
            offset,
            Position {
                latitude: point.latitude,
                longitude: point.longitude,
                accuracy: point.accuracy_m.unwrap_or(10.0),
                recorded_at: (base + offset).to_rfc3339_opts(SecondsFormat::Micros, true),
                // Told out of order they would be refused, as the contract has it.
                sequence_number: (!manner.shuffle).then_some(number as u64),
            },
        ));
    }
    if manner.shuffle {
        random.shuffle(&mut points);
    }
    let wanted = manner.split.map_or(1, |split| split as usize).max(points.len().div_ceil(BATCH)).min(points.len());
    let mut uploads: Vec<Vec<(TimeDelta, Position)>> = Vec::new();
    let total = points.len();
    let mut points = points.into_iter();
    for number in 0..wanted {
        // As even as can be: the sizes differ by one at most.
        let size = total * (number + 1) / wanted - total * number / wanted;
        uploads.push(points.by_ref().take(size).collect());
    }
    if manner.speed.is_some() && manner.split.is_none() && !manner.shuffle {
        uploads = uploads.into_iter().flat_map(cut_by_time).collect();
    }
    uploads
        .into_iter()
        .map(|upload| {
            let last = upload.iter().map(|(offset, _)| *offset).max().unwrap_or_default();
            // A phone cannot send what has not happened yet; squeezed tracks do not pretend.
            let due = if manner.speed.is_some() { last.to_std().unwrap_or_default() } else { Duration::ZERO };
            Upload { points: upload.into_iter().map(|(_, position)| position).collect(), due }
        })
        .collect()
}

fn cut_by_time(upload: Vec<(TimeDelta, Position)>) -> Vec<Vec<(TimeDelta, Position)>> {
    let mut pieces: Vec<Vec<(TimeDelta, Position)>> = Vec::new();
    for point in upload {
        match pieces.last_mut() {
            Some(piece) if piece.first().is_some_and(|first| point.0 - first.0 < UPLOAD_EVERY) => piece.push(point),
            _ => pieces.push(vec![point]),
        }
    }
    pieces
}

/// Repeats a call until it is answered for good, as a phone does that loses nothing; tells how often it was made.
pub async fn patiently<T, F: Future<Output = Result<T, ApiError>>>(
    mut call: impl FnMut() -> F,
) -> (Result<T, ApiError>, u32) {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(200);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let result = call().await;
        match &result {
            Err(error) if error.is_passing() && Instant::now() < deadline => {
                let asked = match error {
                    ApiError::Refused { retry_after, .. } => *retry_after,
                    _ => None,
                };
                tokio::time::sleep(asked.unwrap_or(pause)).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            _ => return (result, attempts),
        }
    }
}

async fn check_in(caller: &SignedIn) -> Outcome<Session> {
    let (result, attempts) = patiently(|| caller.check_in()).await;
    match result {
        // An earlier attempt may have succeeded although its answer was lost.
        Err(error) if attempts > 1 && error.is(StatusCode::BAD_REQUEST) => {
            let open = patiently(|| caller.open_session()).await.0?;
            open.ok_or(error).context("cannot check in")
        }
        result => result.context("cannot check in"),
    }
}

async fn check_out(caller: &SignedIn) -> Outcome {
    let (result, attempts) = patiently(|| caller.check_out()).await;
    match result {
        Ok(_) => Ok(()),
        Err(error) if attempts > 1 && error.is(StatusCode::BAD_REQUEST) => {
            let open = patiently(|| caller.open_session()).await.0?;
            if open.is_none() { Ok(()) } else { Err(error).context("cannot check out") }
        }
        Err(error) => Err(error).context("cannot check out"),
    }
}

async fn record(account: &Account, caller: SignedIn, body: &Value) -> Outcome<SignedIn> {
    match patiently(|| caller.record(body)).await.0 {
        Ok(_) => Ok(caller),
        // A slow replay outlives its token.
        Err(error) if error.is(StatusCode::UNAUTHORIZED) => {
            let caller = account.sign_in().await?;
            patiently(|| caller.record(body)).await.0.context("points were refused")?;
            Ok(caller)
        }
        Err(error) => Err(error).context("points were refused"),
    }
}

/// Sends a batch and closes the connection without waiting for the answer.
async fn send_and_hang_up(base: &reqwest::Url, token: &str, body: &Value) -> Outcome {
    let (Some(host), Some(port), "http") = (base.host_str(), base.port_or_known_default(), base.scheme()) else {
        return Err(Failure::new("--drop-and-resend writes requests by hand and needs an http:// address"));
    };
    let body = body.to_string();
    let path = format!("{}/locations/batch", base.path().trim_end_matches('/'));
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let send = async {
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    // A server that is away is met again when the batch is sent for good.
    let _ = send.await;
    Ok(())
}

/// The session's kilometres, once they are computed.
async fn distance(caller: &SignedIn, id: &str, expected_km: f64) -> Outcome<f64> {
    let deadline = Instant::now() + DISTANCE_TIMEOUT;
    let mut done_since: Option<Instant> = None;
    let mut status;
    loop {
        let session = patiently(|| caller.session(id)).await.0?;
        let session = session.ok_or_else(|| Failure::new("the session is not among the employee's latest"))?;
        status = session.distance_recalculation_status.unwrap_or_default();
        if let (Some(km), "done", Some(_)) = (session.total_distance_km, status.as_str(), session.checkout_at) {
            let since = *done_since.get_or_insert_with(Instant::now);
            let equal = Played { points: 0, product_km: km, reference_km: expected_km }.is_equal();
            if equal || since.elapsed() > SECOND_LOOK {
                return Ok(km);
            }
        }
        if Instant::now() > deadline {
            let waited = DISTANCE_TIMEOUT.as_secs();
            return Err(Failure::new(format!("no distance {waited} s after check-out (status `{status}`)")));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use testkit::track::walk;

    use super::*;

    fn planned(track: &Track, manner: &Manner) -> Vec<Upload> {
        plan(track, DateTime::UNIX_EPOCH, manner, &mut SplitMix(manner.seed))
    }

    fn times(uploads: &[Upload]) -> Vec<DateTime<Utc>> {
        let points = uploads.iter().flat_map(|upload| &upload.points);
        points.map(|point| point.recorded_at.parse().unwrap()).collect()
    }

    #[test]
    fn a_long_track_is_squeezed_behind_check_in_without_losing_a_point() {
        let track = walk(3, 20_000);
        let uploads = planned(&track, &Manner::default());
        assert_eq!(uploads.len(), 200);
        assert!(uploads.iter().all(|upload| upload.points.len() == 100 && upload.due.is_zero()));
        let times = times(&uploads);
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(times[0] > DateTime::UNIX_EPOCH);
        assert!(*times.last().unwrap() < DateTime::UNIX_EPOCH + TimeDelta::seconds(61));
        assert!(uploads[0].points[0].recorded_at.ends_with('Z'));
    }

    #[test]
    fn points_squeezed_onto_one_microsecond_are_kept_apart() {
        let mut track = walk(1, 3);
        track.points[1].recorded_at = track.points[0].recorded_at + TimeDelta::microseconds(1);
        track.points[2].recorded_at = track.points[0].recorded_at + TimeDelta::hours(20);
        let times = times(&planned(&track, &Manner::default()));
        assert!(times[0] < times[1] && times[1] < times[2]);
    }

    #[test]
    fn a_split_is_even_and_a_shuffle_says_nothing_of_order() {
        let track = walk(5, 250);
        let uploads = planned(&track, &Manner { split: Some(7), ..Manner::default() });
        let sizes: Vec<usize> = uploads.iter().map(|upload| upload.points.len()).collect();
        assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (7, 250));
        assert!(sizes.iter().all(|size| (35..=36).contains(size)));
        assert_eq!(planned(&track, &Manner { split: Some(1), ..Manner::default() }).len(), 3);
        assert_eq!(planned(&walk(5, 3), &Manner { split: Some(9), ..Manner::default() }).len(), 3);

        let shuffled = planned(&track, &Manner { shuffle: true, seed: 4, ..Manner::default() });
        assert!(shuffled.iter().flat_map(|upload| &upload.points).all(|point| point.sequence_number.is_none()));
        let mut shuffled = times(&shuffled);
        assert!(!shuffled.is_sorted());
        shuffled.sort_unstable();
        assert_eq!(shuffled, times(&planned(&track, &Manner::default())));
    }

    #[test]
    fn at_real_speed_nothing_is_sent_before_it_happened() {
        let track = walk(5, 50);
        let uploads = planned(&track, &Manner { speed: Some(1.0), ..Manner::default() });
        assert!(uploads.len() > 10);
        assert!(uploads.windows(2).all(|pair| pair[0].due <= pair[1].due));
        let whole = track.duration().to_std().unwrap();
        assert_eq!(uploads.last().unwrap().due, whole);
    }

    #[test]
    fn kilometres_are_compared_at_two_decimals() {
        let played = |product_km| Played { points: 1, product_km, reference_km: 2.73 };
        assert!(played(2.73).is_equal());
        assert!(!played(2.74).is_equal());
    }
}
