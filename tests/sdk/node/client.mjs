/**
 * Calls through the official TypeScript SDK, each told as one JSON document on standard output.
 *
 * The twin of ../client.py: the same jobs, given in the same way, and the same members in the answer.
 * It owns no expectations: it says what an application sees, and the test compares.
 */
import { createInterface } from 'node:readline';

import Anthropic, { AnthropicError } from '@anthropic-ai/sdk';
import { VERSION } from '@anthropic-ai/sdk/version';

const MODEL = 'claude-sonnet-5-5';
const MESSAGES = [{ role: 'user', content: 'Say grüß Gott, 你好 and \u{1f44b}.' }];
const REQUEST = { model: MODEL, max_tokens: 256, messages: MESSAGES };
const CREDENTIALS = { api_key: 'apiKey', auth_token: 'authToken' };

/** What the application has seen so far; an error adds to it and erases nothing. */
class Telling {
  sdk = `anthropic-typescript ${VERSION}`;
  events = [];
  result = null;
  request_id = null;
  headers = null;
  error = null;

  /** Notes the head of an answer. */
  head(headers) {
    this.headers = Object.fromEntries(headers);
    this.request_id = this.headers['request-id'] ?? null;
  }

  /** Notes each event as it comes, copied, for the accumulating helper changes what it hands over. */
  async follow(events) {
    for await (const event of events) this.events.push(structuredClone(event));
  }

  /** Notes the exception that an application would have to handle. */
  failure(error) {
    if (error.headers) this.head(error.headers);
    this.error = {
      class: error.constructor.name,
      is_sdk_error: error instanceof AnthropicError,
      message: error.message,
      status: error.status ?? null,
      body: error.error ?? null,
      retry_after: this.headers?.['retry-after'] ?? null,
    };
  }
}

const MODES = {
  async whole(client, telling) {
    const message = await client.messages.create(REQUEST);
    telling.request_id = message._request_id ?? null;
    telling.result = message;
  },

  /** The SDK's own accumulating helper. */
  async stream(client, telling) {
    const events = client.messages.stream(REQUEST);
    // The head has a promise of its own; when it rejects, so does the loop over the events.
    const head = events.withResponse().then(({ response }) => telling.head(response.headers));
    head.catch(() => {});
    await telling.follow(events);
    await head;
    telling.result = await events.finalMessage();
  },

  /** The events as the SDK decodes them, nothing accumulated. */
  async raw_stream(client, telling) {
    const streamed = client.messages.create({ ...REQUEST, stream: true });
    const { data, response } = await streamed.withResponse();
    telling.head(response.headers);
    await telling.follow(data);
  },

  async count_tokens(client, telling) {
    telling.result = await client.messages.countTokens({ model: MODEL, messages: MESSAGES });
  },

  async models(client, telling) {
    telling.result = (await client.models.list({ limit: 20 })).data;
  },

  async model(client, telling) {
    telling.result = await client.models.retrieve(MODEL);
  },
};

function buildClient(job) {
  return new Anthropic({
    baseURL: job.base_url,
    maxRetries: job.max_retries ?? 0,
    timeout: (job.timeout_seconds ?? 30) * 1000,
    defaultHeaders: job.headers ?? {},
    [CREDENTIALS[job.credential_as ?? 'api_key']]: job.credential,
  });
}

/** Does the job and returns what was seen; only a job that makes no sense rejects. */
async function tell(job) {
  const call = MODES[job.mode];
  const client = buildClient(job);
  const telling = new Telling();
  try {
    await call(client, telling);
  } catch (error) {
    telling.failure(error);
  }
  return telling;
}

const given = process.argv.slice(2);
const jobs = given.length > 0 ? given : createInterface({ input: process.stdin });
for await (const job of jobs) console.log(JSON.stringify(await tell(JSON.parse(job))));
