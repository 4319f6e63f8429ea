// Drives the Admin pages in Chromium as a person would, and talks to the sockets that it opens.
//
//     node drive.mjs PLAYWRIGHT URL ECHO_PORT NEW_PORT [SCREENSHOTS]
//
// Prints `fine` when all went well; anything else is a failure.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import net from "node:net";

const [playwright, url, echoPort, newPort, screenshots] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const DEADLINE = 15_000;

/** Sends a line and answers what came back: its text, `refused`, or `nobody` where nobody listens. */
function talk(port) {
  return new Promise((resolve) => {
    const socket = net.connect(Number(port), "127.0.0.1", () => socket.write("hello\n"));
    socket.setTimeout(DEADLINE, () => resolve("silence"));
    socket.on("data", (data) => { resolve(data.toString()); socket.destroy(); });
    socket.on("error", (error) => resolve(error.code === "ECONNREFUSED" ? "nobody" : "refused"));
    socket.on("close", () => resolve("refused"));
  });
}

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
const problems = [];

async function visitor(options) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE);
  page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => { if (!request.url().startsWith(url)) problems.push(`asks ${request.url()}`); });
  return page;
}

async function logIn(page) {
  await page.goto(url);
  assert.match(page.url(), /\/login$/);
  await page.getByLabel("Name").fill("admin");
  await page.getByLabel("Password").fill("correct horse");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
}

async function picture(page, name) {
  if (screenshots) await page.screenshot({ path: `${screenshots}/${name}.png`, fullPage: !name.includes("phone") });
}

/** The number of the row whose port is this one. */
async function rowOf(page, port) {
  const names = await page.locator("input.port").evaluateAll((inputs) => inputs.map((input) => [input.name, input.value]));
  const found = names.find(([, value]) => value === String(port));
  assert.ok(found, `no row for port ${port}`);
  return found[0].split("-")[1];
}

const update = (page) => page.getByRole("button", { name: "Update" }).click();

try {
  const page = await visitor({ viewport: { width: 1280, height: 900 } });
  await logIn(page);

  // A graph moves while connections are made.
  const opened = page.locator("figure", { hasText: "Connections" }).first();
  const before = await opened.locator("path.line").getAttribute("d");
  const held = Array.from({ length: 7 }, () => net.connect(Number(echoPort), "127.0.0.1"));
  await page.waitForFunction(() => Number(document.querySelector("figure .legend b").textContent) >= 7);
  assert.notEqual(await opened.locator("path.line").getAttribute("d"), before);
  await picture(page, "overview");

  // An open connection is seen, and ended.
  await page.getByRole("link", { name: "Connections" }).click();
  const row = page.getByRole("row", { name: "echo" }).first();
  await row.waitFor();
  await picture(page, "connections");
  const ended = new Promise((resolve) => held.forEach((socket) => { socket.on("close", resolve); socket.on("error", resolve); }));
  await row.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("status").waitFor();
  await ended;
  held.forEach((socket) => socket.destroy());

  // A new socket by the last row.
  await page.getByRole("navigation").getByRole("link", { name: "Listeners" }).click();
  await page.getByRole("link", { name: "echo", exact: true }).click();
  assert.equal(await talk(newPort), "nobody");
  await page.locator("input.port").last().fill(String(newPort));
  await update(page);
  await page.getByRole("status").waitFor();
  assert.equal(await talk(newPort), "hello\n");
  assert.equal(await page.locator("input.port").last().inputValue(), "0");
  await picture(page, "listener");

  // Deny us there; the other socket goes on.
  let number = await rowOf(page, newPort);
  await page.locator(`[name=restriction-${number}]`).selectOption("Deny");
  await page.locator(`[name=list-${number}]`).fill("127.0.0.0/8 ; us\n!127.0.0.2");
  await update(page);
  await page.getByRole("status").waitFor();
  assert.equal(await talk(newPort), "refused");
  assert.equal(await talk(echoPort), "hello\n");
  number = await rowOf(page, newPort);
  assert.equal(await page.locator(`[name=list-${number}]`).inputValue(), "127.0.0.0/8 ; us\n!127.0.0.2");

  // Why?
  await page.getByRole("link", { name: "Why?" }).click();
  await page.getByLabel("Listener").selectOption("echo");
  await page.getByLabel("Remote address").fill("127.0.0.1");
  await page.getByRole("button", { name: "Ask" }).click();
  await page.getByText("refused: restricted").waitFor();
  await picture(page, "why");

  // A fault stands beside its field, and nothing typed is lost.
  await page.goto(`${url}/listeners/echo`);
  number = await rowOf(page, newPort);
  await page.locator(`[name=port-${number}]`).fill("99999");
  await page.locator(`[name=list-${number}]`).fill("10.0.0.1/8");
  await page.getByLabel("Reserve Connections for Clients").fill("many");
  await update(page);
  await page.locator(".fault").first().waitFor();
  assert.equal(await page.locator(`[name=port-${number}]`).inputValue(), "99999");
  assert.equal(await page.locator(`[name=port-${number}]`).getAttribute("aria-invalid"), "true");
  assert.equal(await page.locator(`[name=list-${number}]`).inputValue(), "10.0.0.1/8");
  assert.equal(await talk(newPort), "refused");
  await picture(page, "fault");

  // Port 0 removes the row.
  await page.goto(`${url}/listeners/echo`);
  number = await rowOf(page, newPort);
  await page.locator(`[name=port-${number}]`).fill("0");
  await update(page);
  await page.getByRole("status").waitFor();
  assert.equal(await talk(newPort), "nobody");
  assert.equal(await talk(echoPort), "hello\n");

  // A ban, and back.
  await page.getByRole("link", { name: "Bans" }).click();
  await page.getByLabel("Address or network").fill("192.0.2.66");
  await page.getByLabel("For").fill("10m");
  await page.getByRole("button", { name: "Ban", exact: true }).click();
  await page.getByRole("button", { name: "Take back the ban of 192.0.2.66" }).click();
  await page.getByText("Nobody.").waitFor();

  // A list, with a fault and without.
  await page.getByRole("link", { name: "Address lists" }).click();
  await page.getByRole("link", { name: "Denied addresses" }).click();
  await page.getByRole("textbox").fill("192.0.2.1\nnonsense");
  await update(page);
  await page.getByRole("alert").getByText("line 2").waitFor();
  await page.getByRole("textbox").fill("192.0.2.1 ; gone\n");
  await update(page);
  await page.getByRole("status").waitFor();
  await picture(page, "lists");

  // On a phone, in the dark, and without scripts.
  const phone = await visitor({ viewport: { width: 390, height: 844 }, colorScheme: "dark", javaScriptEnabled: false });
  await logIn(phone);
  assert.ok(await phone.evaluate(() => true).catch(() => true));
  await picture(phone, "phone-dark");
  await phone.goto(`${url}/listeners/echo`);
  await phone.getByLabel("Channels").fill("90");
  await update(phone);
  await phone.getByRole("status").waitFor();
  assert.equal(await phone.getByLabel("Channels").inputValue(), "90");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 1280, `the page is ${wide} wide`);

  // Out.
  await page.getByRole("button", { name: "Log out" }).click();
  await page.goto(`${url}/bans`);
  assert.match(page.url(), /\/login$/);
  await picture(page, "login");
  // Statuses of 4xx are logged by the browser; they were meant.
  assert.deepEqual(problems.filter((problem) => !problem.includes("status of 422")), []);
  console.log("fine");
} finally {
  await browser.close();
}
