"use strict";

// Longer than the function may run, cold start and network included.
const TIMEOUT_MS = 15_000;

const NAMES = ["Income", "Num_Children", "Own_Housing", "Own_Car"];

const byId = (id) => document.getElementById(id);
const form = byId("application");
const title = document.title;

let busy = false;
let sent = false;

// Input

// Only what says whether there is an answer at all. Which answers are possible is the function's to say, and what it
// says is shown as it is.
const CHECKS = {
  Income(text) {
    if (text === "") return "Enter your yearly income";
    // Groups of three only: "500,50" could mean either of two numbers, and the wrong one decides otherwise.
    if (!/^-?(\d+|\d{1,3}([, ]\d{3})+)(\.\d+)?$/.test(text)) {
      return "Yearly income must be a number, like 500,000";
    }
    if (text.startsWith("-")) return "Yearly income must be 0 or more";
    return null;
  },
  Num_Children(text) {
    if (text === "") return "Enter how many children you have, or 0";
    if (!/^\d+$/.test(text)) return "Children must be a whole number, 0 or more";
    return null;
  },
  Own_Housing: (text) => (text === "" ? "Choose whether you own your home" : null),
  Own_Car: (text) => (text === "" ? "Choose whether you own a car" : null),
};

function readForm() {
  const data = new FormData(form);
  const application = {};
  const problems = [];
  for (const name of NAMES) {
    const text = (data.get(name) ?? "").trim();
    const message = CHECKS[name](text);
    if (message) problems.push({ name, message });
    else application[name] = Number(text.replace(/[, ]/g, ""));
    // Infinity has no form in JSON and would arrive as null, which is another answer than the one given.
    if (!message && !Number.isFinite(application[name])) problems.push({ name, message: "This number is too large" });
  }
  return { application, problems };
}

// What is shown

function showFieldError(name, message) {
  const field = byId(`field-${name}`);
  const error = byId(`${name}-error`);
  field.classList.toggle("invalid", message !== null);
  error.hidden = message === null;
  error.textContent = message ?? "";
  const control = field.matches("fieldset") ? field : byId(name);
  const hint = byId(`${name}-hint`) ? `${name}-hint` : "";
  const described = [message === null ? "" : `${name}-error`, hint].join(" ").trim();
  if (described) control.setAttribute("aria-describedby", described);
  else control.removeAttribute("aria-describedby");
  control.setAttribute("aria-invalid", String(message !== null));
}

function clearProblems() {
  byId("problem").hidden = true;
  for (const name of NAMES) showFieldError(name, null);
}

function showProblem({ heading, text = "", fields = [], retry = false, focus = true }) {
  clearProblems();
  byId("problem-title").textContent = heading;
  byId("problem-text").textContent = text;
  byId("problem-list").replaceChildren(
    ...fields.map(({ name, message }) => {
      showFieldError(name, message);
      const link = document.createElement("a");
      link.href = `#${name}`;
      link.textContent = message;
      const item = document.createElement("li");
      item.append(link);
      return item;
    }),
  );
  byId("retry").hidden = !retry;
  byId("problem").hidden = false;
  document.title = `${heading} – ${title}`;
  // A heading that takes the focus is read out by that; one that does not has to be announced.
  byId("status").textContent = focus ? "" : heading;
  if (focus) byId("problem-title").focus();
}

function setBusy(value) {
  busy = value;
  form.setAttribute("aria-busy", String(value));
  byId("submit").disabled = value;
  byId("retry").disabled = value;
  byId("submit-text").textContent = value ? "Deciding…" : "See the decision";
  byId("status").textContent = value ? "Your application is being decided." : "";
}

const yesOrNo = (value) => (value === 1 ? "Yes" : "No");

// The smallest change of one answer that alone turns the decision.
function changeThatApproves({ feature, counterfactual }, own) {
  if (!Number.isFinite(counterfactual)) return "No other answer to this question alone would change the decision.";
  if (feature.startsWith("Own_")) return `With “${yesOrNo(counterfactual)}” and all else the same, we would approve.`;
  // The exact bound can lie between two amounts that people name: the next one beyond it.
  const amount = counterfactual > own ? Math.ceil(counterfactual) : Math.floor(counterfactual);
  const shown = amount.toLocaleString("en");
  return `With ${feature === "Income" ? `about ${shown}` : shown} instead of ${own.toLocaleString("en")} and all else the same, we would approve.`;
}

function showDecision(application, answer) {
  const approved = answer.prediction === 1;
  const heading = approved ? "Approved" : "Denied";
  clearProblems();
  byId("result").dataset.decision = approved ? "approved" : "denied";
  byId("result-title").textContent = heading;
  byId("result-text").textContent = approved
    ? "We can offer you the Larkmoor card."
    : "We cannot offer you the Larkmoor card on these answers.";
  byId("answer-Income").textContent = application.Income.toLocaleString("en", { maximumFractionDigits: 20 });
  byId("answer-Num_Children").textContent = String(application.Num_Children);
  byId("answer-Own_Housing").textContent = yesOrNo(application.Own_Housing);
  byId("answer-Own_Car").textContent = yesOrNo(application.Own_Car);
  byId("probability").textContent = Number.isFinite(answer.probability)
    ? answer.probability.toLocaleString("en", { style: "percent", maximumFractionDigits: 1 })
    : "not given";
  byId("model").textContent = typeof answer.model === "string" ? answer.model : "not given";
  const reasons = (Array.isArray(answer.reasons) ? answer.reasons : []).filter(
    (reason) => typeof reason?.text === "string" && NAMES.includes(reason.feature),
  );
  byId("reasons").hidden = reasons.length === 0;
  byId("reasons-list").replaceChildren(
    ...reasons.map((reason) => {
      const item = document.createElement("li");
      const text = document.createElement("strong");
      text.textContent = reason.text;
      const change = document.createElement("span");
      change.textContent = changeThatApproves(reason, application[reason.feature]);
      item.append(text, change);
      return item;
    }),
  );
  form.hidden = true;
  byId("result").hidden = false;
  document.title = `${heading} – ${title}`;
  byId("status").textContent = `Decision: ${heading}.`;
  byId("result-title").focus();
}

function showForm() {
  byId("result").hidden = true;
  form.hidden = false;
  document.title = title;
  byId("status").textContent = "";
  byId(NAMES[0]).focus();
}

// The function

class Failure extends Error {
  constructor(problem) {
    super(problem.heading);
    this.problem = problem;
  }
}

// The headers can arrive long before the body does, so the time limit holds until the text is read.
async function fetchText(url, options) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), TIMEOUT_MS);
  try {
    const response = await fetch(url, {
      ...options,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: controller.signal,
    });
    return { status: response.status, ok: response.ok, text: await response.text() };
  } catch {
    throw controller.signal.aborted
      ? new Failure({
          heading: "The decision took too long",
          text: "No answer came in time. Nothing was decided; please try again.",
          retry: true,
        })
      : new Failure({
          heading: "The decision service cannot be reached",
          text: "Check your connection and try again. Your answers are still here.",
          retry: true,
        });
  } finally {
    clearTimeout(timer);
  }
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

// Read for every application: a deployment can have moved the function since the page was opened.
async function functionUrl() {
  const unconnected = new Failure({
    heading: "This page is not connected to the decision service",
    text: "Its configuration (config.json) is missing or not valid. Please try again later.",
    retry: true,
  });
  const response = await fetchText("config.json", {}).catch(() => null);
  if (!response?.ok) throw unconnected;
  let url;
  try {
    url = new URL(parse(response.text).function_url);
  } catch {
    throw unconnected;
  }
  const loopback = url.protocol === "http:" && ["127.0.0.1", "localhost"].includes(url.hostname);
  if (url.protocol !== "https:" && !loopback) throw unconnected;
  return url;
}

async function decide(application) {
  const { status, ok, text } = await fetchText(await functionUrl(), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(application),
  });
  const answer = parse(text);
  // Exactly one of the two: whatever else a service says, it is not a decision.
  if (ok && (answer.prediction === 1 || answer.prediction === 0)) return answer;
  if (status >= 400 && status < 500) {
    const message = typeof answer.error === "string" ? answer.error : `The service answered with status ${status}.`;
    throw new Failure(
      NAMES.includes(answer.field)
        ? { heading: "There is a problem with your answers", fields: [{ name: answer.field, message }] }
        : { heading: "The application was not accepted", text: message, retry: true },
    );
  }
  throw new Failure({
    heading: "The decision service has a problem",
    text: ok
      ? "It answered, but not with a decision. Nothing was decided; please try again."
      : `It answered with status ${status}. Nothing was decided; please try again.`,
    retry: true,
  });
}

async function send(application) {
  if (busy) return;
  sent = true;
  // What was wrong before says nothing about this attempt.
  clearProblems();
  document.title = title;
  setBusy(true);
  let answer = null;
  let failure = null;
  try {
    answer = await decide(application);
  } catch (error) {
    failure = error;
  }
  setBusy(false);
  if (answer) showDecision(application, answer);
  else if (failure instanceof Failure) showProblem(failure.problem);
  else {
    showProblem({ heading: "Something went wrong on this page", text: "Please reload it and try again." });
    throw failure;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (busy) return;
  const { application, problems } = readForm();
  if (problems.length > 0) showProblem({ heading: "There is a problem with your answers", fields: problems });
  else send(application);
});

byId("retry").addEventListener("click", () => {
  if (sent) form.requestSubmit();
  else reconnect();
});

byId("change").addEventListener("click", showForm);

// Links of the summary: a fragment would scroll to a radio button but not every browser would focus it.
byId("problem-list").addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  byId(link.hash.slice(1)).focus();
});

async function connectionProblem() {
  try {
    await functionUrl();
    return null;
  } catch (failure) {
    return failure.problem;
  }
}

async function reconnect() {
  const problem = await connectionProblem();
  if (sent) return;
  if (problem) {
    showProblem(problem);
  } else {
    clearProblems();
    document.title = title;
    byId(NAMES[0]).focus();
  }
}

byId("no-script").remove();

// Better to hear it before the form is filled in than after. Whoever types already is not interrupted, and an attempt
// to send says it again anyway.
connectionProblem().then((problem) => {
  if (problem && !sent) showProblem({ ...problem, focus: document.activeElement === document.body });
});
