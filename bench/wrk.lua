-- Every name is on this machine; the one in the URL is for Host and SNI.
local lookup = wrk.lookup
wrk.lookup = function(_, service)
  return lookup("127.0.0.1", service)
end

-- What wrk is told after "--": a method, and how many bytes of body each request has. It reports as JSON.
function init(args)
  wrk.method = args[1]
  if tonumber(args[2]) > 0 then
    wrk.body = string.rep("x", tonumber(args[2]))
  end
  -- A header with {n} in it is another one in each request.
  local before, after = wrk.format():match("^(.*){n}(.*)$")
  if before then
    local number = 0
    request = function()
      number = number + 1
      return before .. number .. after
    end
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "bytes": %d, "seconds": %.6f, "errors": ' ..
    '{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status above 399": %d}}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, e.connect, e.read, e.write, e.timeout, e.status))
end
