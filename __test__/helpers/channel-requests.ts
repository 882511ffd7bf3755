import { Channel, type ChannelReply, type ChannelRequest } from 'fdpass'

/** The requests that one end is asked, each with what settles it. */
export function asked(channel: Channel) {
  const requests: { request: ChannelRequest; reply: (reply: ChannelReply) => void; fail: (error: unknown) => void }[] =
    []
  channel.onRequest(
    (request) => new Promise((reply, fail) => requests.push({ request, reply, fail })) as Promise<ChannelReply>
  )
  return requests
}
