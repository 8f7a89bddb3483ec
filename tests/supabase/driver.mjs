// Drives an unmodified Supabase client for the tests: reads a command a line on stdin, and writes whatever happens
// as a line of JSON on stdout. What the client logs goes to stderr.
// Usage: node driver.mjs PATH-OF-NODE_MODULES

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { join } from 'node:path'

const load = createRequire(join(process.argv[2], 'driver.js'))
const { WebSocket } = load('ws')

const tell = (event) => process.stdout.write(`${JSON.stringify(event, plain)}\n`)

// Bytes as {"bytes":[…]}, both ways.
function plain(_key, value) {
  if (value instanceof ArrayBuffer) return { bytes: [...new Uint8Array(value)] }
  if (ArrayBuffer.isView(value)) return { bytes: [...value] }
  return value
}
const payload = (value) => (Array.isArray(value?.bytes) ? new Uint8Array(value.bytes).buffer : value)

let client
// What the callback for tokens gives, if the client has one.
let token = null
const channels = new Map()
const named = (command) => {
  const channel = channels.get(command.channel)
  if (!channel) throw new Error(`there is no channel ${command.channel}`)
  return channel
}

const logger = (kind, message, data) => {
  process.stderr.write(`${kind}: ${message} ${JSON.stringify(data, plain) ?? ''}\n`)
  // Both versions say so.
  if (kind === 'transport' && /^(connected to|close$)/.test(message)) {
    tell({ event: 'transport', open: message !== 'close', code: data?.code })
  }
}

// Numbers instead of functions; the old client cannot be given a WebSocket, and takes that of `ws` by itself.
const options = ({ reconnectAfterMs, callback, transport, ...rest }) => ({
  logger,
  heartbeatCallback: (status) => tell({ event: 'heartbeat', status }),
  ...(transport === false ? {} : { transport: WebSocket }),
  ...(reconnectAfterMs ? { reconnectAfterMs: () => reconnectAfterMs } : {}),
  ...(callback ? { accessToken: async () => token } : {}),
  ...rest,
})

const commands = {
  connect(command) {
    token = command.token ?? null
    const { RealtimeClient } = load('@supabase/realtime-js')
    client = new RealtimeClient(command.url, options(command.options))
  },
  // As an application does it.
  createClient(command) {
    token = command.token ?? null
    const { createClient } = load('@supabase/supabase-js')
    client = createClient(command.url, command.key, {
      accessToken: async () => token,
      realtime: options(command.options),
    })
  },
  open: () => client.connect(),
  channel(command) {
    channels.set(command.channel, client.channel(command.topic, { config: command.config ?? {} }))
  },
  on(command) {
    const { channel, name } = command
    named(command).on(command.type, command.filter, (payload) => tell({ event: 'callback', channel, name, payload }))
  },
  subscribe(command) {
    const { channel } = command
    named(command).subscribe((status, error) => {
      tell({ event: 'status', channel, status, error: error?.message })
    }, command.timeout)
  },
  send: (command) => named(command).send({ ...command.message, payload: payload(command.message.payload) }),
  httpSend: (command) => named(command).httpSend(command.name, payload(command.payload)),
  track: (command) => named(command).track(command.payload),
  untrack: (command) => named(command).untrack(),
  presenceState: (command) => named(command).presenceState(),
  unsubscribe: (command) => named(command).unsubscribe(),
  removeChannel: (command) => client.removeChannel(named(command)),
  // From here on the callback gives this one, and the client asks for it when it likes.
  token(command) {
    token = command.token
  },
  setAuth: (command) => (client.realtime ?? client).setAuth(command.token),
  sendHeartbeat: () => client.sendHeartbeat(),
  disconnect: () => client.disconnect(),
}

process.on('unhandledRejection', (error) => tell({ event: 'unhandled', error: String(error?.stack ?? error) }))
process.on('uncaughtException', (error) => tell({ event: 'unhandled', error: String(error?.stack ?? error) }))

// One after the other begins; what it promises may come later.
createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const command = JSON.parse(line)
    const { id } = command
    try {
      const value = await commands[command.do](command)
      tell({ event: 'result', id, value: ['string', 'object'].includes(typeof value) ? value : null })
    } catch (error) {
      tell({ event: 'result', id, error: String(error?.message ?? error) })
    }
  })
  .on('close', () => process.exit(0))
